"""Prints what is in the image in which it runs, as JSON: packages of Debian and of Python.

`python3 -m images sbom` hands it to the image's own Python, so it uses nothing else of the image, or of this project.
"""

from __future__ import annotations

import csv
import json
import platform
import site
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

STATUS = Path("/var/lib/dpkg/status")
OS_RELEASE = Path("/etc/os-release")


def debian_packages(status: str) -> list[dict[str, str]]:
    """Packages that dpkg's status file says are installed, with their source packages."""
    found = []
    for paragraph in status.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if not line.startswith(" ") and ": " in line]
        fields = dict(line.split(": ", 1) for line in lines)
        if not fields.get("Status", "").endswith(" installed"):
            continue
        source, _, version = fields.get("Source", fields["Package"]).rstrip(")").partition(" (")
        found.append(
            {
                "name": fields["Package"],
                "version": fields["Version"],
                "architecture": fields["Architecture"],
                "source": source,
                "source_version": version or fields["Version"],
            }
        )
    return sorted(found, key=lambda package: (package["name"], package["architecture"]))


def python_packages(folders: list[str]) -> list[dict[str, str]]:
    """Packages with metadata in these folders, without those whose modules were removed (`images/trim_packages.py`)."""
    found = {}
    for package in distributions(path=folders):
        if is_there(package):
            told = package.metadata
            licence = told["License-Expression"] if "License-Expression" in told else ""  # noqa: SIM401  # no dict
            found[told["Name"], package.version] = licence
    return [{"name": name, "version": version, "licence": of} for (name, version), of in sorted(found.items())]


def is_there(package: Distribution) -> bool:
    """Whether any module or library that the package installed is left, if it installed any."""
    # Not `package.files`: from Python 3.12 on, it leaves out what was removed.
    rows = csv.reader((package.read_text("RECORD") or "").splitlines())
    files = [PurePosixPath(row[0]) for row in rows if row]
    installed = [file for file in files if not file.parts[0].endswith(".dist-info") and ".." not in file.parts]
    return not installed or any(Path(str(package.locate_file(file))).exists() for file in installed)


def main() -> None:
    """Print the inventory."""
    release = dict(line.split("=", 1) for line in OS_RELEASE.read_text().splitlines() if "=" in line)
    # Of this Python and of the one that its environment was made from.
    folders = site.getsitepackages([sys.prefix, sys.base_prefix])
    folders.append("/usr/lib/python3/dist-packages")
    found = {
        "os": {"name": release.get("ID", "").strip('"'), "version": release.get("VERSION_ID", "").strip('"')},
        "python": platform.python_version(),
        "debian_packages": debian_packages(STATUS.read_text(encoding="utf-8")) if STATUS.exists() else [],
        "python_packages": python_packages(folders),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
