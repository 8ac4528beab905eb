from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tasks.errors import RequestError
from tasks.vision.devices import choose_device, choose_precision, images_at_once, prepare_cpu

CPU = torch.device("cpu")


def test_cpu_is_always_there() -> None:
    assert choose_device("cpu") == CPU


def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    for name in ("cuda", "mps"):
        with pytest.raises(
            RequestError, match=rf"device='{name}' is not available here \(available: cpu\); use device='auto'"
        ):
            choose_device(name)


def test_auto_prefers_cuda_to_mps_and_mps_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_precision_on_a_gpu_is_the_best_it_has(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert choose_precision("auto", torch.device("cuda")) is expected


def test_auto_precision_elsewhere_is_float32() -> None:
    assert choose_precision("auto", CPU) is torch.float32
    assert choose_precision("auto", torch.device("mps")) is torch.float32


@pytest.mark.parametrize(("asked", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_asked_for_is_taken(asked: str, dtype: torch.dtype) -> None:
    assert choose_precision(asked, CPU) is dtype


@pytest.mark.parametrize(("asked", "device"), [("fp16", "cpu"), ("fp16", "mps"), ("bf16", "mps")])
def test_precision_that_does_not_train_there_is_refused(asked: str, device: str) -> None:
    with pytest.raises(
        RequestError,
        match=rf"precision='{asked}' is not supported for training on device '{device}'; use precision='auto'",
    ):
        choose_precision(asked, torch.device(device))


def test_large_blocks_are_taken_again_without_asking_the_kernel() -> None:
    """In a process of its own, because the allocator cannot be set back."""
    program = """
import resource, torch
from tasks.vision.devices import prepare_cpu
prepare_cpu(10**6)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(20)][-1])  # the first few leave gaps in the heap that are a little too small
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # 64 MB are 15,625 pages


@pytest.mark.parametrize(("values", "threads"), [(64 * 64, 1), (3 * 16_384, 3), (10**6, 4)])
def test_threads_follow_the_work_up_to_the_cpus(monkeypatch: pytest.MonkeyPatch, values: int, threads: int) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("tasks.vision.devices.available_cpus", lambda: 4)
    monkeypatch.setattr("tasks.vision.devices.sys.platform", "darwin")  # leave this process's allocator alone
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr("tasks.vision.devices.idle_cpus", lambda: 64)
    prepare_cpu(values)
    assert chosen == [threads]


@pytest.mark.parametrize(("idle", "threads"), [(0, 1), (1, 1), (2, 2), (None, 8)])
def test_busy_cpus_get_no_thread(monkeypatch: pytest.MonkeyPatch, idle: int | None, threads: int) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr("tasks.vision.devices.available_cpus", lambda: 8)
    monkeypatch.setattr("tasks.vision.devices.idle_cpus", lambda: idle)
    prepare_cpu(10**9)
    prepare_cpu(10**9, cpus=3)  # a trial has cores of its own
    assert chosen == [threads, 3]


@pytest.mark.parametrize(("side", "cpu"), [(8, 512), (32, 512), (96, 56), (224, 16), (1024, 16)])
def test_on_a_cpu_few_large_images_go_through_a_network_at_once(side: int, cpu: int) -> None:
    """512 photos at once took 6 GB, in a training whose own batches took one."""
    assert images_at_once(3 * side**2, torch.device("cpu")) == cpu
    assert images_at_once(3 * side**2, torch.device("cuda")) == 512
