"""Prints what the newest run of a DAG did, one row per stage: `python -m tasks.summary DAG_ID`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from tasks import tracking
from tasks.contract import STAGES
from tasks.errors import DataError, exit_code_of
from tasks.settings import Settings, load_settings
from tasks.text_table import columns

HEADER = ("stage", "run ID", "seconds", "main figure")


def rows(dag_id: str, settings: Settings) -> list[tuple[str, str, str, str]]:
    """Collect stage, run ID, seconds and main figure of each stage in the newest run of `dag_id`.

    Raises:
        DataError: the DAG has not run yet.
    """
    experiment_id = tracking.connect(settings)
    newest = tracking.find_runs(experiment_id, {"pipeline.dag_id": dag_id, "pipeline.stage": tracking.PARENT_STAGE})
    if not newest:
        raise DataError(f"DAG {dag_id!r} has no run in MLflow yet; start one with `make run DAG={dag_id}`")
    dag_run_id = newest[0].data.tags["pipeline.dag_run_id"]
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
            return f"validation accuracy {result['validation_accuracy']:.4f}, epoch {result['best_epoch']}"
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


def table(lines: list[tuple[str, str, str, str]]) -> str:
    """Lay rows out under a header, columns aligned."""
    rule = tuple("-" * max(len(line[column]) for line in [HEADER, *lines]) for column in range(len(HEADER)))
    return columns([HEADER, rule, *lines])


def main() -> int:
    """Print the table; exit code as in `tasks.errors`."""
    parser = argparse.ArgumentParser(prog="python -m tasks.summary", description=__doc__)
    parser.add_argument("dag_id")
    options = parser.parse_args()
    return exit_code_of(lambda: print(table(rows(options.dag_id, load_settings()))))


if __name__ == "__main__":
    sys.exit(main())
