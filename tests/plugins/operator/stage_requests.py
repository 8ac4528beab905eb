"""Requests of every stage for tests: what is required by its examples, all else by its defaults."""

from __future__ import annotations

from tasks.contract.messages import StageRequest, TaskIdentity
from tasks.contract.stages import STAGES

TASK = TaskIdentity(dag_id="d", dag_run_id="r", task_id="t")


def request_of(stage: str, **fields: object) -> StageRequest:
    """A request of a stage with these fields."""
    declared = STAGES[stage]
    needed = {"rollback": {"reason": "worse in the field"}, "predict": {"images": "/data/photos"}}.get(stage, {})
    return declared.request.model_validate({**declared.upstream_examples, **needed, "task": TASK, **fields})
