"""How many CPUs this process may use, and how many of them are idle. Standard library only."""

from __future__ import annotations

import os
import time
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
STAT = Path("/proc/stat")
IDLE, WAITING = 3, 4  # columns of its first line, after the name: time without work, and time spent waiting for a disk
SAMPLE_SECONDS = 0.3


def available_cpus(cgroup: Path = CGROUP) -> int:
    """Return how many CPUs this process may use: those it may run on, and no more than its container's limit.

    torch counts the machine's cores. In a container with `--cpus 2` on a large machine it would start dozens of
    threads that the kernel then throttles, many times slower than two.

    Args:
        cgroup: where the kernel shows the container's limits (cgroup version 2 or 1), if it has any.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _cpu_limit(cgroup)
    return bound if quota <= 0 else max(1, min(bound, quota // period))


def idle_cpus(stat: Path = STAT, seconds: float = SAMPLE_SECONDS) -> int | None:
    """Return how many of the machine's CPUs nothing uses just now; None where the kernel does not say it.

    Args:
        stat: where the kernel counts the time of each CPU.
        seconds: how long to look.
    """
    if not stat.is_file():
        return None
    before = _cpu_times(stat)
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_cpu_times(stat), before, strict=True)]
    share = (spent[IDLE] + spent[WAITING]) / sum(spent) if sum(spent) else 1.0
    return round(share * (os.cpu_count() or 1))


def _cpu_times(stat: Path) -> list[int]:
    return [int(word) for word in stat.read_text().partition("\n")[0].split()[1:]]


def _cpu_limit(cgroup: Path) -> tuple[int, int]:
    """Return quota and period of CPU time in microseconds; the quota is not positive where there is no limit."""
    both, quota, period = cgroup / "cpu.max", cgroup / "cpu/cpu.cfs_quota_us", cgroup / "cpu/cpu.cfs_period_us"
    if both.is_file():
        words = both.read_text().split()
        return (-1, 1) if words[0] == "max" else (int(words[0]), int(words[1]))
    if quota.is_file() and period.is_file():
        return int(quota.read_text()), int(period.read_text())
    return -1, 1
