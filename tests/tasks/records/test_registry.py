from __future__ import annotations

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.errors import ModelError
from tasks.records import registry, tracking
from tasks.settings import Settings


@pytest.fixture
def train_run(settings: Settings) -> str:
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as run:
        mlflow.log_dict(["cat", "dog"], "classes.json")
        mlflow.log_text("weights", "model/data")
    return str(run.info.run_id)


def make(train_run: str, sha: str = "a") -> int:
    tags = {"pipeline.model_sha256": sha}
    return int(registry.create_version("pets", f"runs:/{train_run}/model", train_run, tags, "").version)


def test_an_empty_registry_has_nothing(settings: Settings) -> None:
    tracking.connect(settings)
    assert registry.by_alias("pets") is None
    assert registry.by_digest("pets", "a") is None
    registry.require_same_classes("pets", ["cat", "dog"])


def test_versions_are_found_by_alias_number_and_digest(train_run: str) -> None:
    first, second = make(train_run), make(train_run, "b")
    registry.set_alias("pets", registry.CHAMPION, first)
    registry.set_alias("pets", registry.CHAMPION, second)
    champion = registry.by_alias("pets")
    assert champion is not None
    assert int(champion.version) == second
    assert champion.tags["pipeline.model_sha256"] == "b"
    found = registry.by_digest("pets", "a")
    assert found is not None
    assert int(found.version) == first
    assert registry.by_number("pets", first).run_id == train_run
    assert registry.by_alias("pets", registry.CHALLENGER) is None


def test_a_missing_version_is_named(train_run: str) -> None:
    make(train_run)
    with pytest.raises(ModelError, match="'pets' has no version 9"):
        registry.by_number("pets", 9)


def test_other_classes_need_a_name_of_their_own(train_run: str) -> None:
    registry.set_alias("pets", registry.CHAMPION, make(train_run))
    registry.require_same_classes("pets", ["cat", "dog"])
    with pytest.raises(ModelError, match=r"registered_model='pets'.*version 1.*cat, dog.*3 classes.*of its own"):
        registry.require_same_classes("pets", ["cat", "dog", "fox"])
    with pytest.raises(ModelError, match="of its own"):
        registry.require_same_classes("pets", ["dog", "cat"])  # the order is the meaning of the answers


def test_a_champion_made_elsewhere_is_not_touched(train_run: str) -> None:
    client = MlflowClient()
    client.create_registered_model("pets")
    client.create_model_version("pets", source=f"runs:/{train_run}/model")
    registry.set_alias("pets", registry.CHAMPION, 1)
    with pytest.raises(ModelError, match=r"version 1.*no run"):
        registry.require_same_classes("pets", ["cat", "dog"])
