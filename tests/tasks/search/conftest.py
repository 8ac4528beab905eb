"""A few hundred digits, in the run of a prepare stage."""

from __future__ import annotations

import mlflow
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tasks.records import gold_store, tracking
from tasks.settings import Settings
from tasks.vision.data.gold import Gold, Split


@pytest.fixture(scope="session")
def digits_gold() -> Gold:
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[:, np.newaxis]
    labels = digits.target.astype(np.int64)

    def split(start: int, stop: int) -> Split:
        return Split(images[start:stop], labels[start:stop], tuple(str(i) for i in range(start, stop)))

    statistics = {"mean": (float(images.mean() / 255),), "std": (float(images.std() / 255),)}
    splits = {"train": split(0, 200), "validation": split(200, 260), "test": split(260, 280)}
    return Gold(**splits, **statistics, classes=tuple("0123456789"), fingerprint="f" * 64, dataset="digits")


@pytest.fixture
def prepare_run_id(settings: Settings, digits_gold: Gold) -> str:
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as prepare:
        gold_store.store(digits_gold)
        mlflow.set_tag(gold_store.GOLD_RUN, prepare.info.run_id)
    return str(prepare.info.run_id)
