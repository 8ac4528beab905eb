"""Chooses the device, the precision and the number of threads of a training."""

from __future__ import annotations

import ctypes
import sys

import torch

from tasks.errors import RequestError
from tasks.vision.cpus import available_cpus, idle_cpus

# Each thread gets at least this many pixel values of a batch. Digits in batches of 64 (4,096 values) trained at 4,200
# images/s on one thread and 5,400 on two of an idle machine, but at a few hundred on two wherever something else was
# running: each of thousands of short kernels then waits until its other thread gets a turn.
VALUES_PER_THREAD = 16_384
# Where a network does not learn. As many pixels as 512 images of 32 x 32: on a CPU more at once are slower, and 512
# images of 224 x 224 take 6 GB even in a small network.
CPU_VALUES = 512 * 3 * 32 * 32
FEWEST, MOST = 16, 512  # images
# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def choose_device(asked: str) -> torch.device:
    """Return the requested device; `auto` is the best available: cuda, mps or cpu.

    Raises:
        RequestError: the requested device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return torch.device(next(name for name, found in available.items() if found))
    if not available.get(asked, False):
        names = ", ".join(name for name, found in available.items() if found)
        raise RequestError(f"device={asked!r} is not available here (available: {names}); use device='auto'")
    return torch.device(asked)


def choose_precision(asked: str, device: torch.device) -> torch.dtype:
    """Return the dtype of convolutions and matrix products; weights are always float32.

    `auto` is bfloat16 on GPUs that have it (Ampere and later) and float16 on older ones. On a CPU it is float32:
    bfloat16 trained these networks more slowly on one that has it in hardware (see docs/benchmarks/training.md).

    Raises:
        RequestError: the device cannot train in the requested precision.
    """
    native = {torch.float32}
    if device.type == "cuda":
        native.add(torch.float16)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            native.add(torch.bfloat16)
    if device.type == "cpu":
        native.add(torch.bfloat16)
    if asked == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.bfloat16 in native else torch.float16
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]
    if dtype not in native:
        raise RequestError(
            f"precision={asked!r} is not supported for training on device {device.type!r}; use precision='auto'"
        )
    return dtype


def images_at_once(image_values: int, device: torch.device) -> int:
    """Return how many images go through a network together where it does not learn.

    Args:
        image_values: numbers in one image, as the network takes it.
        device: where the network is.
    """
    return max(FEWEST, min(MOST, CPU_VALUES // image_values)) if device.type == "cpu" else MOST


def prepare_cpu(batch_values: int, cpus: int | None = None) -> None:
    """Set torch's threads for batches of `batch_values` pixel values, and keep freed memory in the process.

    At most `cpus` threads, by default as many as the CPUs that this process may use and that are idle when it starts:
    on two cores of which another process keeps one busy, MobileNetV3-Small at 32 pixels trains 256 images/s on two
    threads and 581 on one, because each kernel waits for the thread whose core is taken.

    A training step frees some hundred MB of activations and allocates them again at once. glibc returns blocks that
    large to the kernel every time, which then has to clear the pages again: 23,000 page faults and a tenth of the
    time per step of MobileNetV3-Small at batch 128. Only for processes that end after training: their memory does not
    shrink.
    """
    threads = min(cpus or available_cpus(), batch_values // VALUES_PER_THREAD)
    if cpus is None and threads > 1 and (idle := idle_cpus()) is not None:
        threads = min(threads, idle)
    torch.set_num_threads(max(1, threads))
    if sys.platform != "linux":
        return
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):  # glibc has it, musl does not
        allocator.mallopt(M_MMAP_MAX, 0)
        allocator.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
