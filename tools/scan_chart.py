"""Scan the chart with checkov, for every installation that tests/helm renders: ``make scan``.

checkov runs in an environment of its own (its dependencies contradict ours), from the package index, without fetching
anything else. What it does not check and why is in helm/checkov.yaml. A pod that it must complain about goes along: a
scan that finds nothing in that one is broken, and so is one that scans nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHECKOV = "checkov==3.3.30"
CANARY = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "canary", "namespace": "default"},
    "spec": {"containers": [{"name": "all", "image": "all:1", "securityContext": {"privileged": True}}]},
}
PINNED = {
    name: {"digest": f"sha256:{'0' * 64}"}
    for name in ("airflow", "step", "serving", "trialPostgres", "trialSeaweedfs", "gitSync")
}
"""As an installation should be: every image by its digest."""


def render(folder: Path) -> int:
    """Write a file of objects for each installation; returns how many objects there are."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "helm")]
    from chart_rendering import CASES, parse
    from chart_rendering import render as rendered

    count = 0
    for name, values in CASES.items():
        images = {**values.get("images", {}), **PINNED}
        found = parse(rendered({**values, "images": images}))
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(found))
        count += len(found)
    (folder / "canary.yaml").write_text(yaml.safe_dump(CANARY))
    return count


def scan(folder: Path) -> list[dict[str, Any]]:
    """Return what checkov finds."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "tool", "run", "--quiet", "--python", sys.executable, "--from", CHECKOV, "checkov"]
    command += [f"--config-file={ROOT / 'helm' / 'checkov.yaml'}", "--output=json", f"--directory={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
        found: list[dict[str, Any]] = report["results"]["failed_checks"]
    except (ValueError, KeyError, TypeError):
        raise SystemExit(f"checkov did not run:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}") from None
    return found


def main() -> None:
    """Do it; the exit code is 1 when anything is found."""
    with tempfile.TemporaryDirectory() as name:
        count = render(Path(name))
        found = scan(Path(name))
    if not any(one["resource"] == "Pod.default.canary" for one in found):
        raise SystemExit("checkov found nothing wrong with a privileged pod: the scan is broken")
    findings = sorted({(one["resource"], one["check_id"], one["check_name"]) for one in found})
    findings = [one for one in findings if one[0] != "Pod.default.canary"]
    for resource, check, what in findings:
        sys.stdout.write(f"{check} {resource}: {what}\n")
    sys.stdout.write(f"checkov: {count} objects, {len(findings)} findings\n")
    raise SystemExit(bool(findings))


if __name__ == "__main__":
    main()
