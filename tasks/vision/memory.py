"""How much memory this process may still take. Standard library only."""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of cgroup version 2 and 1


def available_memory(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int | None:
    """Return bytes: what the machine has left, and no more than the container's limit; None where nothing says it.

    Args:
        cgroup: where the kernel shows the container's limit, if it has one.
        meminfo: where the kernel shows the machine's memory.
    """
    known = []
    for limit in (cgroup / name for name in LIMITS):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            known.append(int(text))
    if meminfo.is_file():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        known += [int(words[1]) * 1024 for words in lines if words[:1] == ["MemAvailable:"]]
    return min(known, default=None)
