"""A limit for the memory of this process: what a library in C takes for a file is up to the file otherwise."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def data_bytes() -> int:
    """Return how much of what RLIMIT_DATA counts this process has; 0 where the system does not say it."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


@contextmanager
def at_most(most: int) -> Iterator[None]:
    """Have what would take more than `most` bytes of data end with MemoryError meanwhile, in all threads."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lowest = min(limit for limit in (most, soft, hard) if limit != resource.RLIM_INFINITY)
    with contextlib.suppress(ValueError, OSError):  # not every system can
        resource.setrlimit(resource.RLIMIT_DATA, (lowest, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
