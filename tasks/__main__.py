"""Entry point of every image: `python -m tasks STAGE`; and `python -m tasks history` for people."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from pathlib import Path

from tasks import GC_THRESHOLDS
from tasks.contract.stages import STAGES
from tasks.runner.prewarmed import read_request
from tasks.runner.stage_process import RESULT_PATH, run_stage

# They tell at INFO what a task's log need not: credentials found, fonts made, migrations run.
LIBRARIES = ("alembic", "botocore", "matplotlib", "mlflow.store.db.utils")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the stage, return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["history"]:
        from tasks.cli import history  # MLflow takes seconds to import, and no stage needs this

        return history.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m tasks", description=__doc__)
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("--request", required=True, metavar="JSON", help="the stage request; - reads standard input")
    parser.add_argument("--result", type=Path, default=RESULT_PATH, help="where the JSON result goes (%(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    request = read_request() if options.request == "-" else options.request
    return run_stage(options.stage, request, options.result)


if __name__ == "__main__":
    gc.set_threshold(*GC_THRESHOLDS)
    code = main()
    # Skip interpreter shutdown: nothing is left to write, and torch's teardown costs most of a second.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
