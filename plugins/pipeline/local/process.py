"""One stage as a process on this machine. It may be started early: its request is sent when the task runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.local import supervisor
from pipeline.operator.outcome import LINES_KEPT, StageOutcome

VMSTAT = Path("/proc/vmstat")


def kernel_kills() -> int | None:
    """Return how many processes the kernel has ever killed for lack of memory; None where it does not say."""
    with contextlib.suppress(OSError):
        for line in VMSTAT.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


class StageProcess:
    """`command STAGE --request - --result FILE`, in a process group of its own under `pipeline.local.supervisor`."""

    def __init__(self, stage: str, command: Sequence[str], variables: Mapping[str, str], grace: float) -> None:
        """Start the process; `grace` is the time in seconds from SIGTERM to SIGKILL."""
        self.variables = dict(variables)
        self._grace = grace
        self._folder = tempfile.TemporaryDirectory(prefix="stage-")
        self._result = Path(self._folder.name) / "return.json"
        lifeline, self._held = os.pipe()
        supervised = [sys.executable, "-I", supervisor.__file__, str(lifeline), str(grace)]
        try:
            self._process = subprocess.Popen(  # noqa: S603  # the arguments are ours, no shell
                [*supervised, *command, stage, "--request", "-", "--result", str(self._result)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.variables,
                text=True,
                encoding="utf-8",
                errors="replace",
                pass_fds=(lifeline,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._held)
            self._folder.cleanup()
            raise
        finally:
            os.close(lifeline)

    @property
    def pid(self) -> int:
        """ID of the process and of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def run(self, request: str, log: Callable[[str], object]) -> StageOutcome:
        """Send the request, pass each line of output to `log` at once, and wait for the end."""
        assert self._process.stdin is not None  # noqa: S101  # opened as a pipe
        assert self._process.stdout is not None  # noqa: S101
        kills = kernel_kills()
        with contextlib.suppress(BrokenPipeError):  # it has exited; its exit code says why
            self._process.stdin.write(request)
            self._process.stdin.close()
        lines: deque[str] = deque(maxlen=LINES_KEPT)
        for line in self._process.stdout:
            lines.append(line.rstrip())
            log(lines[-1])
        code = self._process.wait()
        now = kernel_kills()
        meanwhile = None if now is None or kills is None else now - kills
        result = self._result.read_bytes() if self._result.exists() else None
        return StageOutcome(code, result, tuple(lines), kernel_kills=meanwhile)

    def stop(self) -> None:
        """Stop the process group if it still runs; may be called at any time, and more than once."""
        if not self.alive:
            return
        # The supervisor stays until the stage is gone. Not psutil here: it would reap our child and lose its exit code.
        os.killpg(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop it and free its pipes and folder; no other call may follow."""
        self.stop()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        os.close(self._held)
        self._folder.cleanup()
