"""How a stage ended: its checked result, or a failure that is or is not worth a retry.

Out of memory is told by the evidence that there is:

- The engine or the cluster says that the container was killed for lack of memory (OOMKilled). `prepare` is not tried
  again: how much it takes follows from its source, so that the next try would end in the same way, and nothing that
  took long is lost. The other stages are: what they read was made by this pipeline and fitted before, and they run
  after hours of training or go on from a checkpoint. A shortage of the whole machine may look the same: the kernel
  chose this container. For a training a retry is worth it; `prepare` is cleared by hand then.
- A local process has no limit of its own, so that SIGKILL is never its input's fault for sure: it is tried again. The
  kernel's count of processes that it killed for lack of memory says whether that is likely the reason.
- A pod that its node evicted was not at its limit; it is tried again (`pipeline.kubernetes.reasons`).
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from pipeline.operator.job import StageJob
from tasks.contract.messages import StageResult
from tasks.contract.stages import STAGES
from tasks.errors import PermanentError, PipelineError, ResultError, UnavailableError, is_permanent

# `python -m tasks` logs "2026-01-31 06:00:00,000 ERROR tasks: DataError: ...".
ERROR_LINE = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) \S+: (?P<text>.*)$")
KILLED = 128 + signal.SIGKILL
TERMINATED = 128 + signal.SIGTERM
LINES_KEPT = 50


@dataclass(frozen=True)
class StageOutcome:
    """How a stage process or container ended.

    Attributes:
        out_of_memory: whether its engine says that it was killed for lack of memory.
        kernel_kills: how many processes of this machine the kernel killed meanwhile for lack of memory; None where that
            is not known, or says nothing of the stage.
    """

    exit_code: int
    result: bytes | None
    last_lines: tuple[str, ...]
    out_of_memory: bool = False
    kernel_kills: int | None = None


def result_of(job: StageJob, outcome: StageOutcome) -> StageResult:
    """Return the checked result of a stage that succeeded.

    Raises:
        ResultError: it succeeded but left no result, or one that does not match its model.
        PermanentError: it failed and would fail again the same way.
        PipelineError: it failed, was killed or ran out of memory; a retry may help.
    """
    if outcome.exit_code == 0:
        if outcome.result is None:
            raise ResultError(f"{job.stage} succeeded but left no result file; its image may be from another version")
        return STAGES[job.stage].parse_result(outcome.result)
    reason = f"{job.stage} ended with exit code {outcome.exit_code}{_cause(job, outcome)}"
    if is_permanent(outcome.exit_code) or (outcome.out_of_memory and not STAGES[job.stage].retried_out_of_memory):
        raise PermanentError(reason)
    raise PipelineError(reason)


def _cause(job: StageJob, outcome: StageOutcome) -> str:
    if outcome.out_of_memory:
        again = "" if STAGES[job.stage].retried_out_of_memory else ", as the same input would be again"
        return (
            f": out of memory, killed at its limit of {job.resources.memory}{again}; "
            f'raise it with PIPELINE_RESOURCES={{"{job.stage}": {{"memory": "..."}}}}'
        )
    if outcome.exit_code == KILLED and outcome.kernel_kills:
        return f": killed (SIGKILL) while the kernel killed {outcome.kernel_kills} process(es) for lack of memory"
    if outcome.exit_code == KILLED and outcome.kernel_kills == 0:
        return ": killed (SIGKILL) by a person or a program; the kernel killed nothing for lack of memory meanwhile"
    if outcome.exit_code == KILLED:
        return ": killed (SIGKILL), most often because the machine ran out of memory"
    if outcome.exit_code == TERMINATED:
        return ": asked to stop (SIGTERM)"
    line = _last_words(outcome)
    return f": {line}" if line else " and printed nothing"


def _last_words(outcome: StageOutcome) -> str:
    """Return the line that says why: the stage's own error line, or the last line of a traceback."""
    if is_permanent(outcome.exit_code) or outcome.exit_code == UnavailableError.exit_code:
        for line in reversed(outcome.last_lines):
            found = ERROR_LINE.match(line)
            if found:
                return found["text"]
    return next((line.strip() for line in reversed(outcome.last_lines) if line.strip()), "")
