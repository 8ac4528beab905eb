"""Ledger entries for tests: of one registered model, whose version N has the digest `shaN`."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient

from tasks.records import registry, tracking
from tasks.records.ledger import Entry, Kind
from tasks.settings import Settings

NAME = "pets"


def make_versions(settings: Settings, count: int) -> None:
    """Register versions 1 to `count`, without an alias and without a model."""
    experiment_id = tracking.connect(settings)
    for _ in range(count):
        run = MlflowClient().create_run(experiment_id)
        registry.create_version(NAME, f"runs:/{run.info.run_id}/model", run.info.run_id, {}, "")


def entry(kind: Kind, version: int, before: int | None, day: object = "mon", **changes: Any) -> Entry:
    """Say that `version` was judged or deployed while `before` was champion; `changes` are other fields."""
    values = {
        "key": f"daily/{day}/register/-1",
        "kind": kind,
        "registered_model": NAME,
        "from_version": before,
        "to_version": before if kind is Kind.REFUSAL else version,
        "candidate_version": version,
        "candidate_sha256": f"sha{version}",
        "by": "ann",
        "reason": "because",
    }
    return Entry(**(values | changes))
