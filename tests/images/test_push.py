"""A pushed image is named by the digest that the registry knows: what is stored on this machine has another."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from built_images import ROOT, Images

pytestmark = pytest.mark.images

CONFIGURATION = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/store}}}}
http: {{addr: {address}}}
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback; its address."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.fail("There is no docker-registry on this machine (Debian and Ubuntu: the package of that name).", False)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "registry.yml").write_text(CONFIGURATION.format(folder=tmp_path, address=address))
    with subprocess.Popen([program, "serve", tmp_path / "registry.yml"], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                httpx.get(f"http://{address}/v2/").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield address
        process.terminate()


def test_the_values_for_the_chart_have_the_registry_s_digest(images: Images, registry: str, tmp_path: Path) -> None:
    (tmp_path / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    base = images.named("trial-seaweedfs").labels["org.opencontainers.image.base.name"]
    repository = f"{registry}/team/trial-seaweedfs"
    options = [f"--base={base}", f"--registry={registry}/team", "--tag=7.0", "--push", f"--output={tmp_path}"]
    try:
        subprocess.run(
            [sys.executable, ROOT / "tools" / "build_images.py", "trial-seaweedfs", "--engine=podman", *options],
            env={**os.environ, "CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf")},
            check=True,
        )
    finally:
        subprocess.run(["podman", "rmi", f"{repository}:7.0"], check=False, capture_output=True)
    found = re.search(r'repository: (\S+), tag: "(.*)", digest: "(.*)"', (tmp_path / "values.yaml").read_text())
    assert found is not None
    assert found.groups()[:2] == (repository, "7.0")
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    for name in ("7.0", found[3]):
        answer = httpx.get(f"http://{registry}/v2/team/trial-seaweedfs/manifests/{name}", headers=accept)
        assert answer.headers["Docker-Content-Digest"] == found[3]
