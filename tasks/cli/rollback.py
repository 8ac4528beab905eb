"""Undo a promotion from a shell, with the stages that the DAG `rollback_champion` runs.

python -m tasks.cli.rollback --reason "sees cats everywhere" [--version 3] [--registered-model vision-classifier]
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from datetime import UTC, datetime
from typing import Any

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import RollbackRequest, RollbackResult
from tasks.errors import exit_code_of
from tasks.runner.stage_process import execute

DAG_ID = "rollback_champion"


def roll_back(fields: dict[str, Any]) -> None:
    """Move the alias, then wait until the service answers with the version.

    Raises:
        PipelineError: what the stages raise; when the alias did not move, nothing changed.
    """
    run = f"shell__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    rolled = execute("rollback", _request("rollback", run, fields))
    assert isinstance(rolled, RollbackResult)  # noqa: S101  # execute checks it; this tells mypy
    moved = {"registered_model": rolled.registered_model, "version": rolled.version}
    print(
        f"champion of {rolled.registered_model}: version {rolled.version} (was {rolled.previous_version})", flush=True
    )
    execute("deploy", _request("deploy", run, moved))
    print(f"in service: version {rolled.version}")


def main(arguments: list[str] | None = None) -> int:
    """Roll back; exit code as in `tasks.errors`."""
    parser = argparse.ArgumentParser(prog="python -m tasks.cli.rollback", description=__doc__)
    parser.add_argument("--reason", required=True, help="why; kept in the ledger")
    parser.add_argument("--version", help="version to go back to; default: the champion before this one")
    parser.add_argument(
        "--registered-model",
        default=RollbackRequest.model_fields["registered_model"].default,
        help="default: %(default)s",
    )
    options = parser.parse_args(arguments)
    fields = {"reason": options.reason, "version": options.version or None}
    return exit_code_of(lambda: roll_back(fields | {"registered_model": options.registered_model}))


def _request(stage: str, run: str, fields: dict[str, Any]) -> str:
    task = TaskIdentity(dag_id=DAG_ID, dag_run_id=run, task_id=stage, user=getpass.getuser())
    return json.dumps({"task": task.model_dump(), **fields})


if __name__ == "__main__":
    sys.exit(main())
