"""Finds a test image to try the service with: `python -m tasks sample DAG_ID FILE`."""

from __future__ import annotations

from tasks.errors import DataError
from tasks.records import queries, tracking
from tasks.records.reference_predictions import read_reference_predictions
from tasks.settings import Settings


def sample(dag_id: str, settings: Settings) -> bytes:
    """Return the first reference image of the newest evaluation in `dag_id`, as PNG.

    Raises:
        DataError: the DAG has no finished evaluation.
    """
    experiment_id = tracking.connect(settings)
    tags = {"pipeline.dag_id": dag_id, "pipeline.stage": "evaluate"}
    found = queries.newest_run(experiment_id, tags, status="FINISHED")
    if found is None:
        raise DataError(f"DAG {dag_id!r} has no finished evaluation in MLflow; start one with `make run DAG={dag_id}`")
    measured = found.data.tags.get(tracking.REUSED_FROM, found.info.run_id)
    return read_reference_predictions(measured, f"DAG {dag_id!r}").predictions[0].image
