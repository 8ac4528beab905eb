"""Prints what a DAG run did, one row per stage: `python -m tasks summary DAG_ID`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.contract.stages import STAGES
from tasks.errors import DataError
from tasks.records import tracking
from tasks.runner.prewarmed import read_request
from tasks.settings import Settings, load_settings
from tasks.text_table import short, table

HEADER = ("stage", "run ID", "seconds", "main figure")


def rows(dag_id: str, settings: Settings, dag_run_id: str | None = None) -> list[tuple[str, str, str, str]]:
    """Collect name, MLflow run ID, seconds and main figure of each stage in a run of `dag_id`, by default the newest.

    Raises:
        DataError: the DAG has not run yet, or has no such run.
    """
    experiment_id = tracking.connect(settings)
    wanted = {"pipeline.dag_id": dag_id, "pipeline.stage": tracking.PARENT_STAGE}
    found_runs = tracking.find_runs(experiment_id, wanted | ({"pipeline.dag_run_id": dag_run_id} if dag_run_id else {}))
    if not found_runs:
        which = f"no run {dag_run_id!r}" if dag_run_id else "no run"
        raise DataError(f"DAG {dag_id!r} has {which} in MLflow yet; start one with `make run DAG={dag_id}`")
    dag_run_id = found_runs[0].data.tags["pipeline.dag_run_id"]
    found = []
    for stage in STAGES:
        runs = tracking.find_runs(
            experiment_id,
            {"pipeline.dag_id": dag_id, "pipeline.dag_run_id": dag_run_id, "pipeline.stage": stage},
        )
        if not runs:
            continue
        info, tags = runs[0].info, runs[0].data.tags
        seconds = f"{(info.end_time - info.start_time) / 1000:.1f}" if info.end_time else "-"
        if info.status == "FINISHED" and tracking.RESULT_TAG in tags:
            figure = main_figure(stage, json.loads(tags[tracking.RESULT_TAG]))
            if tracking.REUSED_FROM in tags:
                figure += f", reused from {tags[tracking.REUSED_FROM]}"
        else:
            figure = " ".join(filter(None, [info.status, tags.get(tracking.ERROR_TAG)]))
        found.append((stage, str(info.run_id), seconds, figure))
    return found


def main_figure(stage: str, result: Mapping[str, Any]) -> str:
    """Say the one thing that a reader wants to know of a stage's result."""
    match stage:
        case "prepare":
            images = sum(result[f"{split}_images"] for split in ("train", "validation", "test"))
            return f"{images:,} images, {result['classes']} classes" + (", gold reused" if result["reused"] else "")
        case "train":
            tuned = f", tuned by {result['tuned_by']}" if result.get("tuned_by") else ""
            return f"validation accuracy {result['validation_accuracy']:.4f}, epoch {result['best_epoch']}{tuned}"
        case "tune":
            best = f"{result['metric'].replace('_', ' ')} {result['best_value']:.4f} in trial {result['best_trial']}"
            trials = ", ".join(f"{result[state]} {state}" for state in ("finished", "stopped", "failed"))
            values = ", ".join(f"{name} {short(value)}" for name, value in result["hyperparameters"].items())
            return f"{best} ({trials}): {result['model']}, {values}"
        case "evaluate":
            return f"test accuracy {result['accuracy']:.4f}, {'promoted' if result['promote'] else 'refused'}"
        case "register":
            state = "champion" if result["promoted"] else "challenger"
            known = "" if result["created"] else ", known already"
            return f"{result['registered_model']} version {result['version']}, {state}{known}"
        case "rollback":
            return f"{result['registered_model']} version {result['version']}, was {result['previous_version']}"
        case "deploy" if result.get("skipped"):
            return f"skipped: {result['skipped']}"
        case "deploy":
            return f"version {result['version']} at {result['url']}, {result['answers_checked']} answers equal"
        case _:
            return ""


def show(dag_id: str, dag_run_id: str | None) -> None:
    """Print the table of a DAG run, by default the newest.

    With the ID `-`, the ID is read from standard input once MLflow is imported; without one there nothing is printed:
    the process that would have written it has ended.
    """
    if dag_run_id == "-":
        dag_run_id = read_request()
        if not dag_run_id:
            return
    print(table(HEADER, rows(dag_id, load_settings(), dag_run_id)))
