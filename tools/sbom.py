"""Print what is in an image, as CycloneDX: its Debian packages, its Python, its Python packages. Standard library only.

Runs inside the image, so that it lists what is there and not what was asked for:

    podman run --rm -i IMAGE python - NAME VERSION < tools/sbom.py
"""

from __future__ import annotations

import json
import platform
import sys
import uuid
from collections.abc import Mapping
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DEBIAN = Path("/var/lib/dpkg/status")


def component(kind: str, name: str, version: str, address: str, license_: str = "") -> dict[str, Any]:
    """Return one component; its address (purl) identifies it."""
    found: dict[str, Any] = {"type": kind, "bom-ref": address, "name": name, "version": version, "purl": address}
    if license_:
        found["licenses"] = [{"license": {"name": license_}}]
    return found


def debian() -> list[dict[str, Any]]:
    """Return the installed Debian packages."""
    stanzas = [dict(HeaderParser().parsestr(one)) for one in DEBIAN.read_text().split("\n\n") if one.strip()]
    return [
        component("library", one["Package"], one["Version"], debian_address(one))
        for one in stanzas
        if one["Status"] == "install ok installed"
    ]


def debian_address(one: Mapping[str, str]) -> str:
    """Return the address of a Debian package."""
    return f"pkg:deb/debian/{quote(one['Package'])}@{quote(one['Version'], safe='')}?arch={one['Architecture']}"


def python(found: Distribution) -> dict[str, Any]:
    """Return an installed Python package; its licence where it fits into a line."""
    metadata = found.metadata.json
    name, version = str(metadata["name"]), found.version
    address = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"
    declared = str(metadata.get("license_expression") or metadata.get("license") or "")
    return component("library", name, version, address, declared if len(declared) < 80 and "\n" not in declared else "")


def main() -> None:
    """Print the document; the same image always gives the same one."""
    name, version = sys.argv[1:]
    interpreter = platform.python_version()
    components = [
        component("application", "python", interpreter, f"pkg:generic/python@{interpreter}"),
        *debian(),
        *map(python, distributions()),
    ]
    components.sort(key=lambda one: str(one["purl"]))
    content = {"metadata": {"component": {"type": "container", "name": name, "version": version}}}
    content["components"] = components  # type: ignore[assignment]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    json.dump(head | content, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
