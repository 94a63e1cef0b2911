"""What `make images` has built."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import build_images as tool
import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Image:
    """One image on this machine; `key` is its name among the chart's values."""

    engine: str
    name: str
    key: str
    repository: str
    tag: str

    @property
    def reference(self) -> str:
        """The image by its tag."""
        return f"{self.repository}:{self.tag}"

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the engine knows about it."""
        command = [self.engine, "image", "inspect", self.reference]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"There is no image {self.reference} here: make images (docs/images.md).", pytrace=False)
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    @property
    def labels(self) -> dict[str, str]:
        """Its OCI labels."""
        found: dict[str, str] = self.description["Config"]["Labels"]
        return found

    @property
    def by_digest(self) -> str:
        """The image by its digest."""
        return f"{self.repository}@{self.description['Digest']}"

    def run(self, *command: str, stdin: str | None = None, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in it: no network, nothing writable but /tmp."""
        options = ["--rm", "--interactive", "--network=none", "--read-only", "--tmpfs=/tmp"]
        options += [f"--user={user}"] if user else []
        command = (self.engine, "run", *options, self.reference, *command)
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Images:
    """All of them."""

    engine: str

    @cached_property
    def all(self) -> list[Image]:
        """Every image of the chart."""
        return [self.named(name) for name in tool.TARGETS]

    def named(self, name: str) -> Image:
        """Return one image, from the place where `make images` puts it by default."""
        return Image(self.engine, name, tool.TARGETS[name][2], f"localhost/{tool.REGISTRY}/{name}", tool.version())


def built() -> Images:
    """Return the images; fails in one sentence where there is nothing to run them with."""
    try:
        found = Images(tool.working_engine("podman"))
    except tool.BuildError as error:
        pytest.fail(str(error), pytrace=False)
    for image in found.all:
        assert image.description
    return found
