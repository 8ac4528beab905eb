"""Prints what a run of a DAG did, one row per stage: `python -m tasks.cli.summary DAG_ID [--dag-run-id ID]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from tasks.contract.stages import STAGES
from tasks.errors import DataError, exit_code_of
from tasks.records import tracking
from tasks.runner.prewarmed import read_request
from tasks.settings import Settings, load_settings
from tasks.text_table import short, table

HEADER = ("stage", "run ID", "seconds", "main figure")


def rows(dag_id: str, settings: Settings, dag_run_id: str | None = None) -> list[tuple[str, str, str, str]]:
    """Collect stage, run ID, seconds and main figure of each stage in one run of `dag_id`, by default the newest.

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


def main() -> int:
    """Print the table; exit code as in `tasks.errors`."""
    parser = argparse.ArgumentParser(prog="python -m tasks.cli.summary", description=__doc__)
    parser.add_argument("dag_id")
    parser.add_argument("--dag-run-id", help="default: the newest; - reads it from standard input")
    options = parser.parse_args()
    if options.dag_run_id == "-":
        options.dag_run_id = read_request()
        if not options.dag_run_id:  # who asked is gone
            return 0
    return exit_code_of(lambda: print(table(HEADER, rows(options.dag_id, load_settings(), options.dag_run_id))))


if __name__ == "__main__":
    sys.exit(main())
