from __future__ import annotations

import json

import pytest

from pipeline.operator.job import StageJob
from pipeline.operator.outcome import StageOutcome, result_of
from tasks.contract.resources import StageResources
from tasks.contract.stages import STAGES, parse_request
from tasks.errors import PermanentError, PipelineError, ResultError

IDENTITY = {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}
RESULT = {
    "run_id": "0" * 32,
    "experiment_id": "1",
    "seconds": 1.5,
    "registered_model": "m",
    "version": 3,
    "created": True,
    "promoted": False,
    "previous_champion": None,
    "reason": "first",
}
TRACEBACK = (
    "2026-01-31 06:00:00,000 ERROR tasks: train failed",
    "Traceback (most recent call last):",
    "ValueError: 3 is not 4",
)


@pytest.fixture
def job() -> StageJob:
    request = parse_request("register", {"task": IDENTITY, "evaluate_run_id": "0" * 32, "approval": {}})
    return StageJob("register", request, "image", {}, {"PASSWORD": "hush"}, StageResources(), None)


@pytest.fixture
def preparing() -> StageJob:
    return StageJob("prepare", parse_request("prepare", {"task": IDENTITY}), "image", {}, {}, StageResources(), None)


def outcome(
    code: int, *lines: str, result: bytes | None = None, oom: bool = False, kills: int | None = None
) -> StageOutcome:
    return StageOutcome(code, result, lines, oom, kills)


def test_a_result_keeps_its_types(job: StageJob) -> None:
    result = result_of(job, outcome(0, result=json.dumps(RESULT).encode()))
    assert result.model_dump() == {**RESULT, "reused_from": None, "tags": None}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "register succeeded but left no result file"),
        (b"", "is not JSON"),
        (b'{"run_id": "1', "is not JSON"),
        (b"[]", "RegisterResult"),
        (json.dumps({**RESULT, "version": 0}).encode(), "version=0"),
        (json.dumps({**RESULT, "extra": 1}).encode(), "extra: unknown"),
    ],
)
def test_no_result_or_another_ones_is_permanent(job: StageJob, answer: bytes | None, text: str) -> None:
    with pytest.raises(ResultError) as failure:
        result_of(job, outcome(0, result=answer))
    assert text in str(failure.value)


@pytest.mark.parametrize("code", [64, 65, 70, 76, 78])
def test_a_known_permanent_failure_says_the_stages_own_line(job: StageJob, code: int) -> None:
    error = "2026-01-31 06:00:00,000 ERROR tasks: DataError: source='x' is empty; fill it"
    with pytest.raises(PermanentError) as failure:
        result_of(job, outcome(code, "reading", error, "2026-01-31 06:00:01,000 INFO tasks: bye"))
    assert str(failure.value) == (f"register ended with exit code {code}: DataError: source='x' is empty; fill it")


@pytest.mark.parametrize(
    ("ended", "text"),
    [
        (
            outcome(69, "2026-01-31 06:00:00,000 ERROR tasks: UnavailableError: no MLflow"),
            "69: UnavailableError: no MLflow",
        ),
        (outcome(1, *TRACEBACK), "1: ValueError: 3 is not 4"),
        (outcome(1), "exit code 1 and printed nothing"),
        (outcome(143, "working"), "143: asked to stop (SIGTERM)"),
        (outcome(137, "working"), "137: killed (SIGKILL), most often because"),
        (outcome(137, "working", kills=0), "137: killed (SIGKILL) by a person or a program; the kernel killed nothing"),
        (outcome(137, "working", kills=2), "137: killed (SIGKILL) while the kernel killed 2 process(es) for lack of"),
        (outcome(137, "working", oom=True), "137: out of memory, killed at its limit of 4g"),
    ],
)
def test_what_may_pass_is_retried_and_says_why(job: StageJob, ended: StageOutcome, text: str) -> None:
    with pytest.raises(PipelineError) as failure:
        result_of(job, ended)
    assert not isinstance(failure.value, PermanentError)
    assert text in str(failure.value)


def test_prepare_at_its_own_limit_of_memory_is_not_retried(preparing: StageJob) -> None:
    """The same source would take the same memory."""
    with pytest.raises(PermanentError, match="out of memory, killed at its limit of 4g, as the same input would be"):
        result_of(preparing, outcome(137, "images read 30 %", oom=True))


@pytest.mark.parametrize("kills", [None, 0, 3])
def test_prepare_that_is_killed_otherwise_is_retried(preparing: StageJob, kills: int | None) -> None:
    """A local process, or one that its machine had no room for: a shortage may pass."""
    with pytest.raises(PipelineError) as failure:
        result_of(preparing, outcome(137, kills=kills))
    assert not isinstance(failure.value, PermanentError)


def test_only_two_stages_read_what_strangers_made() -> None:
    """Every other stage is worth a retry: what it reads fitted before, and a training may have gone before it."""
    once = [stage.name for stage in STAGES.values() if not stage.retried_out_of_memory]
    assert once == ["prepare", "predict"]


def test_a_failed_stages_result_file_is_not_looked_at(job: StageJob) -> None:
    with pytest.raises(PipelineError):
        result_of(job, outcome(1, result=json.dumps(RESULT).encode()))


def test_a_job_shows_no_secret(job: StageJob) -> None:
    assert "hush" not in repr(job)


def test_a_job_can_be_found_by_its_key(job: StageJob) -> None:
    assert job.labels["pipeline.key"] == "d/r/t/-1"
    assert job.labels["pipeline.stage"] == "register"
