"""Finds the kind of device that a training would use, without importing torch."""

from __future__ import annotations

import ctypes
import platform

NAME_BYTES = 256


def kind(asked: str) -> str:
    """Return what `device=asked` means on this machine: `cpu`, `mps`, or `cuda` and the model of the first GPU.

    The model matters: precision `auto` is another one on older GPUs. A device that is missing is returned as asked.
    """
    if asked in ("auto", "cuda") and (gpu := _first_gpu()) is not None:
        return f"cuda {gpu}"
    if asked != "auto":
        return asked
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"


def _first_gpu() -> str | None:
    """Name of the first GPU that NVIDIA's driver lets this process use; None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES)
    there = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    if not there or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    return name.value.decode() if driver.cuDeviceGetName(name, NAME_BYTES, device) == 0 else None
