"""A few hundred digits, in the run of a prepare stage."""

from __future__ import annotations

import mlflow
import pytest

from tasks.records import gold_store, tracking
from tasks.settings import Settings
from tasks.vision.data.gold import Gold
from tests.digits import digits_as_gold


@pytest.fixture(scope="session")
def digits_gold() -> Gold:
    return digits_as_gold()


@pytest.fixture
def prepare_run_id(settings: Settings, digits_gold: Gold) -> str:
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as prepare:
        gold_store.store(digits_gold)
        mlflow.set_tag(gold_store.GOLD_RUN, prepare.info.run_id)
    return str(prepare.info.run_id)
