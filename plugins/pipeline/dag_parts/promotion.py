"""The tasks after a training in every DAG: evaluate, approve, register, and deploy if the model was promoted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import task

from pipeline.dag_parts.approval import PromotionApproval
from pipeline.dag_parts.notifications import promotion
from pipeline.dag_parts.pool import CHAMPION
from pipeline.operator.stage_operator import StageOperator
from pipeline.runtimes import stage_task


def evaluate_and_register(train: StageOperator) -> StageOperator:
    """Add the tasks evaluate, approve and register after a training; returns register."""
    trained: Any = train.output  # Airflow's types do not say that an output can be indexed
    evaluate = stage_task("evaluate", train_run_id=trained["run_id"], execution_timeout=timedelta(hours=1))
    judged: Any = evaluate.output
    approve = PromotionApproval(task_id="approve", promote=judged["promote"], table=judged["table"])
    register = stage_task("register", evaluate_run_id=judged["run_id"], approval=approve.output, pool=CHAMPION)
    register.on_success_callback = [promotion]
    return register


@task.short_circuit
def promoted(promoted: bool) -> bool:
    """Skip the tasks after this one when the model was not promoted."""
    return promoted
