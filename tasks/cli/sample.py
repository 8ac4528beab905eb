"""Writes a test image of a DAG's newest run to a file, for the service: `python -m tasks.cli.sample DAG_ID FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tasks.errors import DataError, exit_code_of
from tasks.records import tracking
from tasks.records.reference_predictions import read_probes
from tasks.settings import Settings, load_settings


def sample(dag_id: str, settings: Settings) -> bytes:
    """Return the first probe image of the newest evaluation in `dag_id`, as PNG.

    Raises:
        DataError: the DAG has no finished evaluation.
    """
    experiment_id = tracking.connect(settings)
    tags = {"pipeline.dag_id": dag_id, "pipeline.stage": "evaluate"}
    found = tracking.find_runs(experiment_id, tags, status="FINISHED")
    if not found:
        raise DataError(f"DAG {dag_id!r} has no finished evaluation in MLflow; start one with `make run DAG={dag_id}`")
    measured = found[0].data.tags.get(tracking.REUSED_FROM, found[0].info.run_id)
    return read_probes(measured, f"DAG {dag_id!r}").probes[0].image


def main() -> int:
    """Write the file; exit code as in `tasks.errors`."""
    parser = argparse.ArgumentParser(prog="python -m tasks.cli.sample", description=__doc__)
    parser.add_argument("dag_id")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    return exit_code_of(lambda: options.file.write_bytes(sample(options.dag_id, load_settings())))


if __name__ == "__main__":
    sys.exit(main())
