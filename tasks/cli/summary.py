"""Prints what a DAG run did, one row per task that ran a stage: `python -m tasks summary DAG_ID`."""

from __future__ import annotations

from mlflow.entities import Run

from tasks.contract.messages import TaskIdentity
from tasks.contract.stages import STAGES
from tasks.errors import DataError
from tasks.records import queries, tracking
from tasks.runner.prewarmed import read_request
from tasks.settings import Settings, load_settings
from tasks.text_table import table

HEADER = ("task", "run ID", "seconds", "main figure")


def rows(dag_id: str, settings: Settings, dag_run_id: str | None = None) -> list[tuple[str, str, str, str]]:
    """Collect task ID, MLflow run ID, seconds and main figure of what ran in a run of `dag_id`, by default the newest.

    In the order of their beginning. A DAG may run a stage twice, as two tasks.

    Raises:
        DataError: the DAG has not run yet, or has no such run.
    """
    experiment_id = tracking.connect(settings)
    wanted = {"pipeline.dag_id": dag_id, "pipeline.stage": tracking.PARENT_STAGE}
    wanted |= {"pipeline.dag_run_id": dag_run_id} if dag_run_id else {}
    parent = queries.newest_run(experiment_id, wanted)
    if parent is None:
        which = f"no run {dag_run_id!r}" if dag_run_id else "no run"
        raise DataError(f"DAG {dag_id!r} has {which} in MLflow yet; start one with `make run DAG={dag_id}`")
    dag_run_id = parent.data.tags["pipeline.dag_run_id"]
    newest: dict[str, Run] = {}  # by task; one that was cleared and got another request has several runs
    for stage in STAGES:
        of_stage = {"pipeline.dag_id": dag_id, "pipeline.dag_run_id": dag_run_id, "pipeline.stage": stage}
        for run in queries.find_runs(experiment_id, of_stage):
            newest.setdefault(run.data.tags["pipeline.key"], run)
    return [_row(run) for run in sorted(newest.values(), key=lambda run: run.info.start_time)]


def _row(run: Run) -> tuple[str, str, str, str]:
    info, tags = run.info, run.data.tags
    seconds = f"{(info.end_time - info.start_time) / 1000:.1f}" if info.end_time else "-"
    if info.status == "FINISHED" and tracking.RESULT_TAG in tags:
        figure = STAGES[tags["pipeline.stage"]].stored_result(tags[tracking.RESULT_TAG]).headline
        if tracking.REUSED_FROM in tags:
            figure += f", reused from {tags[tracking.REUSED_FROM]}"
    else:
        figure = " ".join(filter(None, [info.status, tags.get(tracking.ERROR_TAG)]))
    return TaskIdentity.task_of(tags["pipeline.key"]), str(info.run_id), seconds, figure


def show(dag_id: str, dag_run_id: str | None) -> None:
    """Print the table of a DAG run, by default the newest.

    With the ID `-`, the ID is read from standard input once MLflow is imported. If standard input is empty, nothing is
    printed: the process that should have written the ID has ended.
    """
    if dag_run_id == "-":
        dag_run_id = read_request()
        if not dag_run_id:
            return
    print(table(HEADER, rows(dag_id, load_settings(), dag_run_id)))
