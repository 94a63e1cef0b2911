"""Build the images of docker/ with Podman or Docker: ``make images``. Standard library only.

Leaves in .evergreen/images/ a bill of materials for each image, and values.yaml, which tells the chart to use them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / ".evergreen" / "images"
ENGINES = ("podman", "docker")
TARGETS = {
    # image: its Dockerfile, the target in it, the chart's name for it
    "airflow": ("airflow", "", "airflow"),
    "step": ("step", "", "step"),
    "serving": ("serving", "", "serving"),
    "trial-postgres": ("trial", "postgres", "trialPostgres"),
    "trial-seaweedfs": ("trial", "seaweedfs", "trialSeaweedfs"),
}
REGISTRY = "evergreen"
CARRIED = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "default-timeout")
"""What of the machine's own pip configuration the builds are given, as a secret that stays out of the image."""


class BuildError(Exception):
    """What went wrong and what to do about it, in one sentence."""


@dataclass(frozen=True)
class Built:
    """One image as it was built; the digest is the registry's if it was pushed."""

    name: str
    reference: str
    size: int
    digest: str
    pushed: bool
    components: int


def main() -> int:
    """Build what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build the images of docker/.")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"which ones ({', '.join(TARGETS)}); none: all")
    parser.add_argument("--registry", default=REGISTRY, help="what stands before the names, e.g. registry/team")
    parser.add_argument("--tag", default="", help="default: the version in pyproject.toml")
    parser.add_argument("--base", default="", help="Debian image with Python 3.11-3.13 and pip; default: Python slim")
    parser.add_argument("--engine", default="", help=f"default: the first of {', '.join(ENGINES)} that works")
    parser.add_argument("--wheels", default="", help="folder of wheels; default: the local find-links of pip")
    parser.add_argument(
        "--torch", default="", help="hashes of the torch to install; default: docker/step/torch-cpu.txt"
    )
    parser.add_argument("--torch-index", default="", help="package index torch is taken from")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for bills of materials and values.yaml")
    parser.add_argument("--push", action="store_true", help="push to the registry; its digests go to values.yaml")
    arguments = parser.parse_args()
    try:
        built = build_all(arguments)
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 78
    report(built, arguments.output)
    return 0


def build_all(arguments: argparse.Namespace) -> list[Built]:
    """Check the arguments, then build."""
    names = arguments.images or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        raise BuildError(f"no image {', '.join(sorted(unknown))}: there are {', '.join(TARGETS)}.")
    tag = arguments.tag or version()
    references = {name: checked(f"{arguments.registry}/{name}:{tag}") for name in names}
    if arguments.base:
        checked(arguments.base)
    engine = working_engine(arguments.engine)
    pip = pip_settings()
    wheels = wheels_folder(arguments.wheels, pip)
    carried = carried_settings(pip)
    if "step" in names and not (arguments.torch_index or carried.keys() & {"index-url", "extra-index-url"}):
        check_torch_is_at_hand(wheels)
    options = {"BASE": arguments.base, "VERSION": code_version(), "TORCH": arguments.torch}
    with tempfile.TemporaryDirectory() as folder:
        common = [
            *(f"--build-arg={name}={value}" for name, value in options.items() if value),
            *secrets(carried, pip.get("cert", ""), arguments.torch_index, Path(folder)),
            *([f"--build-context=wheels={wheels}"] if wheels else []),
        ]
        built = []
        for name in names:
            build(engine, name, references[name], common)
            components = write_bill(engine, references[name], arguments.output / f"{name}.cdx.json")
            built.append(measured(engine, name, references[name], components, push=arguments.push))
        return built


def checked(reference: str) -> str:
    """Return an image's reference if it names a version.

    Raises
    ------
    BuildError
        If its tag is missing, `latest` or not well formed: what ran could never be told.
    """
    name, _, digest = reference.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if digest and re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        return reference
    if digest or tag in {"", "latest"} or not re.fullmatch(r"\w[\w.-]{0,127}", tag, re.ASCII):
        raise BuildError(f"{reference!r} names no version: give a tag other than latest, or a digest.")
    return reference


def working_engine(wanted: str) -> str:
    """Return the engine asked for, or the first that answers."""
    for name in [wanted] if wanted else ENGINES:
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    raise BuildError(
        f"{wanted or ' and '.join(ENGINES)}: not installed, or not running; one of them builds the images."
    )


def pip_settings() -> dict[str, str]:
    """Return the machine's pip configuration, the variables over the files."""
    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    lines = sorted(line for line in shown.stdout.splitlines() if "=" in line)  # ":env:" sorts before "global"
    pairs = [line.partition("=")[::2] for line in reversed(lines)]
    return {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, value in pairs}


def wheels_folder(wanted: str, pip: dict[str, str]) -> str:
    """Return the folder whose wheels the builds may take; empty if there is none."""
    for place in [wanted] if wanted else pip.get("find-links", "").split():
        path = Path(urlsplit(place).path if place.startswith("file:") else place)
        if path.is_dir():
            return str(path.resolve())
    if wanted:
        raise BuildError(f"--wheels={wanted}: no such folder.")
    return ""


def check_torch_is_at_hand(wheels: str) -> None:
    """Refuse to begin what would end, minutes later, with the hashes of another build of torch."""
    if not (wheels and list(Path(wheels).glob("torch-*.whl"))):
        raise BuildError(
            "the step image takes a CPU build of torch, and pip does not look where it is: name the package index of "
            "torch's CPU builds (--torch-index), or a folder that holds the wheel (--wheels)."
        )


def carried_settings(pip: dict[str, str]) -> dict[str, str]:
    """Return what of pip's configuration holds during a build as well: folders of this machine are not there."""
    words = {name: pip.get(name, "").split() for name in CARRIED}
    there = {name: [one for one in found if not one.startswith(("/", "file:"))] for name, found in words.items()}
    return {name: " ".join(kept) for name, kept in there.items() if kept}


def secrets(carried: dict[str, str], certificates: str, torch_index: str, folder: Path) -> list[str]:
    """Write what pip needs to reach the package indexes; return the options that hand it to a build."""
    contents = {
        "pip": "[global]\n" + "".join(f"{name} = {value}\n" for name, value in carried.items()),
        "torch-index": torch_index,
    }
    options = []
    for name, content in contents.items():
        if content:
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(content)
            options.append(f"--secret=id={name},src={folder / name}")
    certificates = certificates or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or ""
    return [*options, *([f"--secret=id=ca,src={certificates}"] if certificates else [])]


def version() -> str:
    """Return the project's version: the default tag."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def code_version() -> str:
    """Return the commit the images are made from, with a digest of what differs from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        describe = [*git, "describe", "--always", "--dirty=+dirty", "--abbrev=12"]
        commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
        if commit.endswith("+dirty"):
            changed = subprocess.run([*git, "diff", "HEAD"], capture_output=True, check=True).stdout
            commit += f".{hashlib.sha256(changed).hexdigest()[:8]}"
    except (OSError, subprocess.SubprocessError):
        return version()
    return commit


def build(engine: str, name: str, reference: str, common: list[str]) -> None:
    """Build one image."""
    folder, target, _ = TARGETS[name]
    say(f"building {reference}")
    file = f"--file={ROOT / 'docker' / folder / 'Dockerfile'}"
    call(engine, "build", file, *([f"--target={target}"] if target else []), *common, f"--tag={reference}", str(ROOT))


def write_bill(engine: str, reference: str, path: Path) -> int:
    """Write the bill of materials, which the image itself tells; return how many components it has."""
    command = ["python", "-", *reference.rsplit(":", 1)]
    script = (ROOT / "tools" / "sbom.py").read_text()
    run = [engine, "run", "--rm", "--interactive", "--network=none", reference, *command]
    shown = subprocess.run(run, input=script, capture_output=True, text=True, check=False)
    if shown.returncode:
        raise BuildError(f"{reference} was built, but cannot be run: {shown.stderr.strip()[-500:]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(shown.stdout)
    return len(json.loads(shown.stdout)["components"])


def measured(engine: str, name: str, reference: str, components: int, *, push: bool) -> Built:
    """Return what an image has become, in the registry if it is to be pushed."""
    digest = pushed_digest(engine, reference) if push else inspect(engine, reference, "{{.Id}}")
    return Built(name, reference, int(inspect(engine, reference, "{{.Size}}")), digest, push, components)


def pushed_digest(engine: str, reference: str) -> str:
    """Push an image; return the digest that the registry knows it by."""
    if engine == "podman":  # what it stores here is not compressed, and so has another digest
        with tempfile.NamedTemporaryFile("r") as file:
            call(engine, "push", f"--digestfile={file.name}", reference)
            return file.read().strip()
    call(engine, "push", reference)
    known = inspect(engine, reference, '{{join .RepoDigests "\\n"}}').splitlines()
    return next(one.partition("@")[2] for one in known if one.startswith(reference.rpartition(":")[0] + "@"))


def inspect(engine: str, reference: str, template: str) -> str:
    """Return a property of an image."""
    shown = subprocess.run(
        [engine, "image", "inspect", "--format", template, reference], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        raise BuildError(f"{reference}: {shown.stderr.strip()}")
    return shown.stdout.strip()


def call(*command: str) -> None:
    """Run the engine, its progress shown."""
    # Docker would make an image an index of itself and an attestation, but save only one of them: kind refuses such an
    # archive (kubernetes-sigs/kind#3795)
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise BuildError(f"`{' '.join(command[:2])}` of {command[-1]} failed: see above.")


def report(built: list[Built], output: Path) -> None:
    """Print a line for each image, and write the values for the chart: those of images built before stay."""
    path = output / "values.yaml"
    values = dict(re.findall(r"^  (\w+): (.*)$", path.read_text(), re.MULTILINE)) if path.exists() else {}
    for one in built:
        repository, _, tag = one.reference.rpartition(":")
        digest = one.digest if one.pushed else ""
        values[TARGETS[one.name][2]] = f'{{repository: {repository}, tag: "{tag}", digest: "{digest}"}}'
        say(f"{one.reference}  {one.size / 1e6:,.0f} MB  {one.components} components  {one.digest}")
    path.write_text("".join(["images:\n", *(f"  {key}: {value}\n" for key, value in values.items())]))
    say(f"for the chart: --values {os.path.relpath(path)}")


def say(message: str) -> None:
    """Show progress."""
    sys.stdout.write(f"==> {message}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
