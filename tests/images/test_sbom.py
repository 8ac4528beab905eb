"""The list of what an image holds: what is read in the image, and the CycloneDX document that becomes of it."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import inventory, sbom

STATUS = """\
Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl (3.0.20-1)
Version: 3.0.20-1+b1
Description: library
 Homepage: none

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: adduser
Status: install ok installed
Architecture: all
Version: 1:3.134
"""
IMAGE = {
    "Id": f"sha256:{'1' * 64}",
    "Created": "2026-11-28T10:27:54.123456789Z",
    "Config": {"Labels": {"org.opencontainers.image.revision": "c0ffee"}},
}


def package(folder: Path, name: str, version: str, *files: str, licence: str = "") -> None:
    """Write a package's metadata, and the files that it says it has."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
        + (f"License-Expression: {licence}\n" if licence else "")
    )
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in (*files, f"{info.name}/METADATA", "../bin/x")))
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()


@pytest.fixture
def found(tmp_path: Path) -> dict:
    package(tmp_path, "Mlflow_Skinny", "3.17.2", "mlflow/__init__.py", licence="Apache-2.0")
    package(tmp_path, "cryptography", "47.0", "cryptography/__init__.py")
    (tmp_path / "cryptography/__init__.py").unlink()
    package(tmp_path, "only-metadata", "1+cpu")
    return {
        "os": {"name": "debian", "version": "12"},
        "python": "3.11.16",
        "debian_packages": inventory.debian_packages(STATUS),
        "python_packages": inventory.python_packages([str(tmp_path)]),
    }


def test_packages_are_those_that_are_there(found: dict) -> None:
    assert [one["name"] for one in found["debian_packages"]] == ["adduser", "libssl3"]
    assert [one["name"] for one in found["python_packages"]] == ["Mlflow_Skinny", "only-metadata"]


def test_a_package_of_this_environment_is_there() -> None:
    assert inventory.is_there(distribution("pytest"))


def test_the_document_is_valid_and_names_packages_as_scanners_do(found: dict) -> None:
    document = sbom.document("serving", IMAGE, found)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert [component.get("purl") for component in document["components"]] == [
        None,
        "pkg:generic/python@3.11.16",
        "pkg:deb/debian/adduser@1%3A3.134?arch=all&distro=debian-12&upstream=adduser",
        "pkg:deb/debian/libssl3@3.0.20-1%2Bb1?arch=amd64&distro=debian-12&upstream=openssl%403.0.20-1",
        "pkg:pypi/mlflow-skinny@3.17.2",
        "pkg:pypi/only-metadata@1%2Bcpu",
    ]
    assert document["components"][4]["licenses"] == [{"expression": "Apache-2.0"}]
    assert document["metadata"]["component"]["version"] == "c0ffee"
    assert document["metadata"]["timestamp"] == "2026-11-28T10:27:54Z"


def test_an_image_keeps_its_serial_number_and_another_has_another(found: dict) -> None:
    one, again = (sbom.document("serving", IMAGE, found) for _ in range(2))
    assert one == again
    another = sbom.document("serving", IMAGE | {"Id": f"sha256:{'2' * 64}"}, found)
    assert one["serialNumber"] != another["serialNumber"]


def test_an_unknown_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sbom.write(["servng"], tmp_path / "out") == sbom.UNKNOWN == 64
    assert "image 'servng' is unknown; choose from: mlflow" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
