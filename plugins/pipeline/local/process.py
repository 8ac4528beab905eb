"""One stage as a process on this machine: started without its request, which comes when its turn does."""

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


class StageProcess:
    """`command STAGE --request - --result FILE`, in a process group of its own under `pipeline.local.supervisor`."""

    def __init__(self, stage: str, command: Sequence[str], variables: Mapping[str, str], grace: float) -> None:
        """Start it; `grace` are the seconds from SIGTERM to SIGKILL."""
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
        """The process's ID, and its group's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def run(self, request: str, tell: Callable[[str], object]) -> StageOutcome:
        """Give it its request and follow it to its end, each line that it prints told at once."""
        assert self._process.stdin is not None  # noqa: S101  # a pipe was asked for
        assert self._process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its exit code says why
            self._process.stdin.write(request)
            self._process.stdin.close()
        lines: deque[str] = deque(maxlen=LINES_KEPT)
        for line in self._process.stdout:
            lines.append(line.rstrip())
            tell(lines[-1])
        code = self._process.wait()
        return StageOutcome(code, self._result.read_bytes() if self._result.exists() else None, tuple(lines))

    def stop(self) -> None:
        """End its process group, if it has not ended; may be called at any time, and more than once."""
        if not self.alive:
            return
        # The supervisor stays until the stage is gone. Not psutil here: it would reap our child and lose its exit code.
        os.killpg(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it and give back all that it had; no other call may follow."""
        self.stop()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        os.close(self._held)
        self._folder.cleanup()
