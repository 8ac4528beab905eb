"""The tasks after a stage that made a model, in every DAG: evaluate, approve, register, deploy what was promoted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import task

from pipeline.dag_parts.approval import PromotionApproval
from pipeline.dag_parts.notifications import promotion
from pipeline.dag_parts.pool import CHAMPION
from pipeline.operator.stage_operator import StageOperator
from pipeline.runtimes import stage_task


def promote_and_deploy(made: StageOperator, what: str = "model", *, prepared: StageOperator | None = None) -> list[Any]:
    """Add the tasks that judge the model of `made`, register it, and deploy it if it was promoted.

    Args:
        made: the task that made it.
        what: it is, for a person who is asked to approve it.
        prepared: the task whose data it was made of, where that is in the same DAG.

    Returns:
        The tasks that whatever needs the promoted model comes after: the branch, which skips it too, and deploy.
    """
    model: Any = made.output  # Airflow's types do not say that an output can be indexed
    data: Any = prepared.output if prepared else {}
    evaluate = stage_task(
        "evaluate",
        train_run_id=model["run_id"],
        train_tags=model["tags"],
        prepare_tags=data["tags"] if prepared else None,
        execution_timeout=timedelta(hours=1),
    )
    judged: Any = evaluate.output
    approve = PromotionApproval(task_id="approve", model=what, promote=judged["promote"], table=judged["table"])
    register = stage_task(
        "register",
        evaluate_run_id=judged["run_id"],
        evaluate_tags=judged["tags"],
        train_tags=model["tags"],
        approval=approve.output,
        pool=CHAMPION,
    )
    register.on_success_callback = [promotion]
    registered: Any = register.output
    deploy = stage_task("deploy", version=registered["version"], execution_timeout=timedelta(minutes=75))
    branch = promoted(registered["promoted"])
    branch >> deploy
    return [branch, deploy]


@task.short_circuit
def promoted(promoted: bool) -> bool:
    """Skip the tasks after this one when the model was not promoted."""
    return promoted
