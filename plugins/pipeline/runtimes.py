"""The one function that a DAG file calls to run a stage, and the table of runtimes behind it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pipeline.dag_parts.notifications import failure
from pipeline.operator.stage_operator import StageOperator
from tasks.settings import Runtime, load_settings

# Imported when chosen: a machine without the providers runs the local runtime.
RUNTIMES: Mapping[Runtime, str] = {
    Runtime.LOCAL: "pipeline.local.operator:LocalStageOperator",
    Runtime.DOCKER: "pipeline.docker.operator:DockerStageOperator",
    Runtime.KUBERNETES: "pipeline.kubernetes.operator:KubernetesStageOperator",
}

# `default_args` of a DAG of stages: how often a task is tried again, and for how long one try may go on.
STAGE_DEFAULTS: Mapping[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(minutes=15),
    "on_failure_callback": failure,
}


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
    """Make the task that runs `stage` under the runtime that `PIPELINE_RUNTIME` names.

    Args:
        stage: a stage of `tasks.contract.stages.STAGES`; also the task's ID when `task_id` is not given.
        task_id: for a DAG that runs a stage twice.
        execution_timeout: after this the stage is stopped; the task may be retried.
        pool: the Airflow pool that the task takes a slot of.
        resources: fields of `StageResources` that this task needs other than by default.
        environment: more variables for the stage; no secrets, Airflow shows them.
        request_fields: fields of the stage's request. Those without a default come from earlier tasks and must be
            given, as `prepare.output["run_id"]`; those with one come from the DAG's Params unless they are given here.

    Raises:
        RequestError: unknown stage or field, or a field that an earlier task gives is missing.
        SettingsError: the environment or the resources cannot be used.
    """
    module, _, name = RUNTIMES[load_settings().pipeline_runtime].partition(":")
    operator: type[StageOperator] = getattr(importlib.import_module(module), name)
    # Left out when not given: the DAG's default_args may say it.
    said = {"execution_timeout": execution_timeout, "pool": pool}
    return operator(
        task_id=task_id or stage,
        stage=stage,
        request_fields=request_fields,
        resources=resources,
        environment=environment,
        **{name: value for name, value in said.items() if value is not None},
    )
