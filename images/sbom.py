"""Writes what an image holds as a CycloneDX document: packages of Debian and of Python, and Python itself.

    python3 -m images sbom --out FOLDER [NAME...]

Read in the image itself (`images/inventory.py`), without network, so the document is of these very bytes and not of
lock files. The same image gives the same document. Standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from images.declared import ROOT, images, tagged

UNKNOWN = 64
NAMESPACE = uuid.UUID("9d2ed8d1-5d0a-5b8e-9d6c-1f2f6f0c7a11")  # of serial numbers: any, as long as it stays


def write(names: Sequence[str], folder: Path) -> int:
    """Write FOLDER/NAME.cdx.json for the named images, or all; return an exit code."""
    known = images()
    if unknown := [name for name in names if name not in known]:
        print(f"image {unknown[0]!r} is unknown; choose from: {' '.join(known)}", file=sys.stderr)
        return UNKNOWN
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or known:
        tag = tagged(name)
        asked = subprocess.run(["docker", "image", "inspect", tag], capture_output=True, text=True)  # noqa: S603, S607
        if asked.returncode != 0:
            print(f"{tag} is not on this engine; run make images", file=sys.stderr)
            return asked.returncode
        found = document(name, json.loads(asked.stdout)[0], inventory(tag))
        file = folder / f"{name}.cdx.json"
        file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{file}: {len(found['components'])} components", flush=True)
    return 0


def inventory(image: str) -> dict[str, Any]:
    """What `images/inventory.py` prints in an image, which gets no network and nothing to write to.

    Raises:
        subprocess.CalledProcessError: the image does not start, or has no Python.
    """
    program = (ROOT / "images" / "inventory.py").read_text(encoding="utf-8")
    limits = ["--rm", "--interactive", "--read-only", "--network", "none", "--cap-drop", "ALL"]
    command = ["docker", "run", *limits, "--entrypoint", "python", image, "-I", "-"]
    return dict(json.loads(subprocess.check_output(command, input=program, text=True)))  # noqa: S603


def document(name: str, image: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The CycloneDX document.

    Args:
        name: of the image.
        image: the engine's record of it.
        found: its inventory.
    """
    system = found["os"]
    components = [
        {"type": "operating-system", "name": system["name"], "version": system["version"]},
        {
            "type": "platform",
            "name": "python",
            "version": found["python"],
            "purl": f"pkg:generic/python@{found['python']}",
        },
        *(_debian(package, system) for package in found["debian_packages"]),
        *(_python(package) for package in found["python_packages"]),
    ]
    for component in components:
        component["bom-ref"] = component.get("purl") or f"{component['name']}-{component['version']}"
    commit = (image["Config"].get("Labels") or {}).get("org.opencontainers.image.revision", "unknown")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, image['Id'])}",
        "version": 1,
        "metadata": {
            "timestamp": re.sub(r"\.\d+", "", image["Created"]),
            "component": {
                "bom-ref": "image",
                "type": "container",
                "name": f"vision-mlops/{name}",
                "version": commit,
                "properties": [{"name": "vision-mlops:image-id", "value": image["Id"]}],
            },
            "tools": {"components": [{"type": "application", "name": "vision-mlops images sbom", "version": commit}]},
        },
        "components": components,
    }


def _debian(package: dict[str, str], system: dict[str, str]) -> dict[str, Any]:
    # Advisories are of source packages: `upstream` is how scanners find them.
    upstream = package["source"]
    if package["source_version"] != package["version"]:
        upstream += f"@{package['source_version']}"
    told = {
        "arch": package["architecture"],
        "distro": f"{system['name']}-{system['version']}",
        "upstream": upstream,
    }
    qualifiers = "&".join(f"{key}={quote(value, safe='')}" for key, value in told.items())
    purl = f"pkg:deb/{system['name']}/{package['name']}@{quote(package['version'], safe='')}?{qualifiers}"
    return {"type": "library", "name": package["name"], "version": package["version"], "purl": purl}


def _python(package: dict[str, str]) -> dict[str, Any]:
    name = re.sub(r"[-_.]+", "-", package["name"]).lower()
    purl = f"pkg:pypi/{name}@{quote(package['version'], safe='')}"
    licences = {"licenses": [{"expression": package["licence"]}]} if package["licence"] else {}
    return {"type": "library", "name": package["name"], "version": package["version"], "purl": purl, **licences}
