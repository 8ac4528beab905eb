"""How a stage ended: its checked result, or a failure that is or is not worth a retry."""

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
    """How a stage process or container ended."""

    exit_code: int
    result: bytes | None
    last_lines: tuple[str, ...]
    out_of_memory: bool = False


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
    if is_permanent(outcome.exit_code):
        raise PermanentError(reason)
    raise PipelineError(reason)


def _cause(job: StageJob, outcome: StageOutcome) -> str:
    if outcome.out_of_memory:
        return (
            f": out of memory, killed at its limit of {job.resources.memory}; "
            f'raise it with PIPELINE_RESOURCES={{"{job.stage}": {{"memory": "..."}}}}'
        )
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
