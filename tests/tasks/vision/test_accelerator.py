from __future__ import annotations

import ctypes
import platform
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.vision import accelerator
from tasks.vision.devices import choose_device


def test_it_agrees_with_torch_on_this_machine() -> None:
    assert accelerator.kind("auto").split()[0] == choose_device("auto").type


def test_a_cpu_asked_for_is_a_cpu_whatever_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_first_gpu", lambda: "NVIDIA A")
    assert accelerator.kind("cpu") == "cpu"
    assert accelerator.kind("auto") == accelerator.kind("cuda") == "cuda NVIDIA A"


def driver(*, init: int = 0, gpus: int = 1) -> Any:
    """As much of NVIDIA's driver as is asked."""

    def count(pointer: Any) -> int:
        pointer._obj.value = gpus
        return 0

    def name(buffer: Any, size: int, device: Any) -> int:
        buffer.value = b"NVIDIA A"
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: init, cuDeviceGetCount=count, cuDeviceGet=lambda pointer, i: 0, cuDeviceGetName=name
    )


@pytest.mark.parametrize(
    ("there", "kind"),
    [(driver(), "cuda NVIDIA A"), (driver(gpus=0), "cpu"), (driver(init=100), "cpu")],
)
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, there: Any, kind: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: there)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert accelerator.kind("auto") == kind


def test_apples_gpu_is_known_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_first_gpu", lambda: None)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert accelerator.kind("auto") == "mps"
    assert accelerator.kind("cuda") == "cuda"  # not there: the stage refuses it
