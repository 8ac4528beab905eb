"""The one function that a DAG file calls to run a stage, and how it finds the operator of the runtime.

A runtime is a folder `pipeline/NAME/` whose `operator` module has the class `NameStageOperator`, and its name in
`tasks.settings.Runtime`. Nothing else lists runtimes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pipeline.dag_parts.notifications import failure
from pipeline.operator.stage_operator import StageOperator
from tasks.settings import load_settings

# `default_args` of a DAG of stages: how often a task is retried, and how long one try may take.
STAGE_DEFAULTS: Mapping[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(minutes=15),
    "on_failure_callback": failure,
}


def operator_of(runtime: str) -> type[StageOperator]:
    """Import the operator of a runtime; only the chosen one, so that the local runtime needs no provider."""
    module = importlib.import_module(f"pipeline.{runtime}.operator")
    found: type[StageOperator] = getattr(module, f"{runtime.capitalize()}StageOperator")
    return found


def stage_task(
    stage: str,
    *,
    task_id: str | None = None,
    execution_timeout: timedelta | None = None,
    pool: str | None = None,
    resources: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    **request_fields: Any,
) -> StageOperator:
    """Make the task that runs `stage` on the runtime that `PIPELINE_RUNTIME` names.

    Args:
        stage: a stage of `tasks.contract.stages.STAGES`; also the task's ID when `task_id` is not given.
        task_id: for a DAG that runs a stage twice.
        execution_timeout: after this time the stage is stopped; the task may be retried.
        pool: the Airflow pool that the task takes a slot of.
        resources: fields of `StageResources` in which this task differs from the default.
        environment: additional variables for the stage; no secrets, Airflow shows them.
        request_fields: fields of the stage's request. Those without a default, such as an upstream run ID, are
            required: `prepare.output["run_id"]`. Those with a default come from the DAG's Params unless given here.

    Raises:
        RequestError: the stage or a field is unknown, or a required field is missing.
        SettingsError: the environment or the resources are invalid.
    """
    operator = operator_of(load_settings().pipeline_runtime)
    # Left out when not given, so that the DAG's default_args apply.
    given = {"execution_timeout": execution_timeout, "pool": pool}
    return operator(
        task_id=task_id or stage,
        stage=stage,
        request_fields=request_fields,
        resources=resources,
        environment=environment,
        **{name: value for name, value in given.items() if value is not None},
    )
