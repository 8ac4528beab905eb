from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.vision.cpus import available_cpus, idle_cpus


@pytest.mark.parametrize(("content", "share"), [("100000 100000\n", 1), ("50000 100000\n", 1), ("max 100000\n", 10**6)])
def test_threads_follow_the_containers_share_of_the_cpus(tmp_path: Path, content: str, share: int) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert available_cpus(tmp_path) == min(share, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("quota", "share"), [("100000\n", 1), ("50000\n", 1), ("-1\n", 10**6)])
def test_threads_follow_the_share_that_an_older_kernel_shows(tmp_path: Path, quota: str, share: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(tmp_path) == min(share, len(os.sched_getaffinity(0)))


def test_without_a_container_threads_follow_the_cpus_of_the_process(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "missing") == len(os.sched_getaffinity(0))


def stat_of(path: Path, *times: int) -> None:
    path.write_text(f"cpu  {' '.join(map(str, times))}\ncpu0 1 1 1 1\n")


@pytest.mark.parametrize(("share", "idle"), [(0, 0), (25, 1), (50, 2), (60, 2), (100, 4)], ids=lambda value: str(value))
def test_idle_cpus_are_counted_from_the_kernels_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int, idle: int
) -> None:
    stat = tmp_path / "stat"
    stat_of(stat, 500, 0, 100, 900, 7, 0, 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    later = (500 + 100 - share, 0, 100, 900 + share, 7, 0, 0)
    monkeypatch.setattr("tasks.vision.cpus.time.sleep", lambda seconds: stat_of(stat, *later))
    assert idle_cpus(stat) == idle


def test_a_kernel_that_counts_nothing_is_no_obstacle(tmp_path: Path) -> None:
    assert idle_cpus(tmp_path / "stat") is None
