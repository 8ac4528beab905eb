"""Prints what a run of a DAG did, one row per stage: `python -m tasks.cli.summary DAG_ID [--dag-run-id ID]`."""

from __future__ import annotations

import argparse
import sys

from tasks.contract.stages import STAGES
from tasks.errors import DataError, exit_code_of
from tasks.records import tracking
from tasks.runner.prewarmed import read_request
from tasks.settings import Settings, load_settings
from tasks.text_table import table

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
    for stage, declared in STAGES.items():
        runs = tracking.find_runs(
            experiment_id,
            {"pipeline.dag_id": dag_id, "pipeline.dag_run_id": dag_run_id, "pipeline.stage": stage},
        )
        if not runs:
            continue
        info, tags = runs[0].info, runs[0].data.tags
        seconds = f"{(info.end_time - info.start_time) / 1000:.1f}" if info.end_time else "-"
        if info.status == "FINISHED" and tracking.RESULT_TAG in tags:
            figure = declared.stored_result(tags[tracking.RESULT_TAG]).headline
            if tracking.REUSED_FROM in tags:
                figure += f", reused from {tags[tracking.REUSED_FROM]}"
        else:
            figure = " ".join(filter(None, [info.status, tags.get(tracking.ERROR_TAG)]))
        found.append((stage, str(info.run_id), seconds, figure))
    return found


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
