"""Runs `make inspect` on one archive after the other, each in a process of its own, and measures it.

    python -m tests.tasks.vision.data.hostile.lane 0 500 [KIND]     the series from 0 to 500, as a table

The processes are forked from one that has imported what `inspect` imports: a fresh one has the same in memory, and
takes a second to get it there.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.tasks.vision.data.hostile.series import hostile, kind_of

CPU_SECONDS = 60  # for one archive
CRASHED = 1


@dataclass(frozen=True)
class Outcome:
    """How one inspection ended; `peak` is the most memory that it or a process of its own had, in bytes."""

    code: int
    seconds: float
    peak: int
    words: str


def inspected(path: Path, log: Path) -> Outcome:
    """Inspect one archive in a forked process."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _inspect(path, log)
    _, status, usage = os.wait4(child, 0)
    lines = log.read_text(errors="replace").splitlines()
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, time.monotonic() - began, usage.ru_maxrss * 1024, lines[-1] if lines else "")


def _inspect(path: Path, log: Path) -> None:
    """End this process as `python -m tasks inspect` would."""
    code = CRASHED
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from tasks.cli import inspect
        from tasks.errors import exit_code_of

        code = exit_code_of(lambda: inspect.show({"source": str(path)}, None))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def warm() -> None:
    """Import what an inspection imports, but for pyarrow, whose threads do not survive a fork."""
    from tasks.cli import inspect  # noqa: F401


def run(numbers: list[int], folder: Path) -> list[tuple[int, Outcome]]:
    """Make and inspect archives of the series; to be called in a process of one thread."""
    warm()
    found = []
    for number in numbers:
        path = folder / f"archive-{number}{'.parquet' if kind_of(number).startswith('parquets') else ''}"
        maker = os.fork()  # what making takes is not the inspection's
        if maker == 0:
            code = CRASHED
            try:
                path.write_bytes(hostile(number))
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(maker, 0)[1] != 0:
            raise RuntimeError(f"archive {number} ({kind_of(number)}) cannot be made")
        outcome = inspected(path, folder / "log")
        found.append((number, outcome))
        if __name__ == "__main__":
            size = path.stat().st_size
            print(
                f"{number:4} {kind_of(number):28} {size:9,} {outcome.code:4} {outcome.seconds:6.1f} s "
                f"{outcome.peak / 2**20:6.0f} MiB  {outcome.words[:150]}",
                flush=True,
            )
        path.unlink()
    return found


def run_apart(numbers: list[int]) -> list[tuple[int, Outcome]]:
    """Do `run` in a fresh process: pytest has threads and imports of its own."""
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (numbers, Path(folder)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        chosen = range(int(sys.argv[1]), int(sys.argv[2]))
        run([n for n in chosen if kind_of(n).startswith("".join(sys.argv[3:]))], Path(temporary))
