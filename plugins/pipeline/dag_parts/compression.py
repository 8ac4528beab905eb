"""The tasks that make a model smaller, in every DAG that does: compress, and what comes after any new model."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import TriggerRule

from pipeline.dag_parts.promotion import promote_and_deploy
from pipeline.operator.stage_operator import StageOperator
from pipeline.runtimes import stage_task


def compress_and_promote(*, prepared: StageOperator | None = None, **request_fields: Any) -> StageOperator:
    """Add compress and the tasks that judge, register and deploy its model; returns compress.

    Args:
        prepared: the task whose data the model was made of, where that is in the same DAG.
        request_fields: fields of compress's request that the DAG gives, as in `stage_task`.
    """
    compress = stage_task("compress", execution_timeout=timedelta(hours=8), **request_fields)
    # A deploy before it may have had nothing to do: the service follows another registered model.
    compress.trigger_rule = TriggerRule.NONE_FAILED
    promote_and_deploy(compress, "compressed model", prepared=prepared)
    return compress
