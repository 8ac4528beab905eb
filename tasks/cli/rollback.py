"""Undoes a promotion from a shell, with the same stages as the DAG: `python -m tasks rollback-champion`."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Any

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import RollbackResult
from tasks.runner.stage_process import execute

DAG_ID = "rollback_champion"


def roll_back(fields: dict[str, Any]) -> None:
    """Move the alias `champion`, then wait until the service answers with that version.

    Args:
        fields: of the rollback stage's request: `registered_model`, `reason` and `version` (None: the one before).

    Raises:
        PipelineError: what the stages raise. When `rollback` fails, nothing has changed.
    """
    run = f"shell__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    rolled = execute("rollback", _request("rollback", run, fields))
    assert isinstance(rolled, RollbackResult)  # noqa: S101  # execute checks it; this tells mypy
    moved = {"registered_model": rolled.registered_model, "version": rolled.version}
    print(
        f"champion of {rolled.registered_model}: version {rolled.version} (was {rolled.previous_version})", flush=True
    )
    execute("deploy", _request("deploy", run, moved))
    print(f"the service now answers with version {rolled.version}")


def _request(stage: str, run: str, fields: dict[str, Any]) -> str:
    task = TaskIdentity(dag_id=DAG_ID, dag_run_id=run, task_id=stage, user=getpass.getuser())
    return json.dumps({"task": task.model_dump(), **fields})
