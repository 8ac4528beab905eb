"""What stages read: resolved without a write, and the same whenever the result would be."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import EvaluateRequest
from tasks.contract.training import TrainRequest, TuneRequest
from tasks.errors import DataError, RequestError
from tasks.records import artifact_digest, gold_store, ledger, registry, tracking, tuned_sets
from tasks.records.inputs.evaluation import EvaluateInputs
from tasks.records.inputs.stage_inputs import PreparedData
from tasks.records.inputs.training import TrainInputs, TuneInputs
from tasks.records.tracking import StageRun
from tasks.settings import Settings

NAME = "pets"
PREPARED = {"pipeline.fingerprint": "f", tuned_sets.DATASET: "digits", "pipeline.data_licence": "CC0"}


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    tracking.connect(settings)
    return MlflowClient()


def made(client: MlflowClient, settings: Settings, **tags: str) -> StageRun:
    experiment_id = tracking.connect(settings)
    return StageRun(client.create_run(experiment_id, tags=tags).info.run_id, experiment_id, "")


def prepared(client: MlflowClient, settings: Settings, tags: dict[str, str] = PREPARED) -> str:
    run_id = made(client, settings, **tags).run_id
    client.set_tag(run_id, gold_store.GOLD_RUN, run_id)
    return run_id


@pytest.fixture
def evaluation(client: MlflowClient, settings: Settings, task: TaskIdentity) -> Any:
    """The request to evaluate a model with the digest `a`, and the run of it."""
    tags = {"pipeline.logged_model_uri": "models:/m-1", registry.SHA256: "a", artifact_digest.TAG: "files"}
    trained = made(client, settings, **tags, **{"pipeline.prepare_run_id": prepared(client, settings)})
    values = {"task": task, "train_run_id": trained.run_id, "registered_model": NAME}
    return EvaluateRequest.model_validate(values), made(client, settings)


def crown(run: StageRun, sha256: str) -> int:
    version = int(registry.create_version(NAME, "runs:/x/model", run.run_id, {registry.SHA256: sha256}, "").version)
    registry.set_alias(NAME, registry.CHAMPION, version)
    return version


def test_a_training_is_resolved_without_a_write(client: MlflowClient, settings: Settings, task: TaskIdentity) -> None:
    run = made(client, settings)
    before = client.get_run(run.run_id).data
    values = {"task": task, "prepare_run_id": prepared(client, settings), "device": "cpu"}
    inputs = TrainInputs.resolve(TrainRequest.model_validate(values), run)
    data = {"fingerprint": "f", "dataset": "digits", "licence": "CC0"}
    assert inputs.identity == {"data": data, "tuned": None, "weights": None, "device": "cpu"}
    assert client.get_run(run.run_id).data.tags == before.tags


def test_a_training_on_photos_starts_from_the_weights_at_hand(
    client: MlflowClient, settings: Settings, task: TaskIdentity
) -> None:
    photos = prepared(client, settings, {**PREPARED, tuned_sets.DATASET: "image_folder"})

    def resolved(**values: Any) -> TrainInputs:
        request = TrainRequest.model_validate({"task": task, "prepare_run_id": photos, "device": "cpu", **values})
        return TrainInputs.resolve(request, made(client, settings))

    inputs = resolved()
    assert inputs.weights is not None
    assert inputs.weights.network == "efficientnet_lite0"
    assert inputs.identity is not None
    assert inputs.identity["weights"] == [inputs.weights.sha256, "Apache-2.0"]
    for values in ({"weights": "none"}, {"finetune": "scratch"}, {"model": "resnet18"}):
        assert resolved(**values).weights is None
    own = settings.pipeline_home / "own.safetensors"
    own.write_bytes(b"own")
    other = resolved(weights=str(own)).identity
    assert other is not None
    assert other["weights"] not in (None, inputs.identity["weights"])
    with pytest.raises(RequestError, match="weights='pretrained': there are none of resnet18"):
        resolved(weights="pretrained", model="resnet18")


def test_each_network_of_a_search_is_resolved(client: MlflowClient, settings: Settings, task: TaskIdentity) -> None:
    values = {"task": task, "prepare_run_id": prepared(client, settings), "device": "cpu"}
    space = {"model": ["fast_cnn", "efficientnet_lite0"]}
    request = TuneRequest.model_validate({**values, "search_space": space})
    inputs = TuneInputs.resolve(request, made(client, settings))
    assert inputs.networks == ("fast_cnn", "efficientnet_lite0")
    assert list(inputs.weights) == ["efficientnet_lite0"]
    assert inputs.identity is not None
    assert inputs.identity["weights"] == {"efficientnet_lite0": inputs.weights["efficientnet_lite0"].identity}
    alone = TuneInputs.resolve(TuneRequest.model_validate(values), made(client, settings))
    assert (alone.networks, dict(alone.weights)) == (("fast_cnn",), {})
    without = request.model_copy(update={"weights": "none"})
    assert dict(TuneInputs.resolve(without, made(client, settings)).weights) == {}


def test_another_run_of_the_same_data_is_the_same_input(client: MlflowClient, settings: Settings) -> None:
    first, second = (PreparedData.of(prepared(client, settings)) for _ in range(2))
    assert first != second
    assert first.identity == second.identity


@pytest.mark.parametrize("missing", PREPARED)
def test_data_that_do_not_say_all_are_usable_and_never_the_same(
    client: MlflowClient, settings: Settings, missing: str
) -> None:
    tags = {name: value for name, value in PREPARED.items() if name != missing}
    data = PreparedData.of(prepared(client, settings, tags))
    assert data.gold_run_id
    assert data.identity is None


def test_a_run_without_gold_is_refused(client: MlflowClient, settings: Settings) -> None:
    with pytest.raises(DataError, match=r"has no tag 'pipeline\.gold_run_id'"):
        PreparedData.of(made(client, settings, **PREPARED).run_id)


def test_a_verdict_depends_on_the_champion(evaluation: Any) -> None:
    request, run = evaluation
    alone = EvaluateInputs.resolve(request, run)
    assert alone.champion is None
    assert alone.identity is not None
    assert alone.identity["champion"] == {"champion": None, "rolled_back": None}

    version = crown(run, "b")
    beside = EvaluateInputs.resolve(request, run)
    assert (beside.only_to_judge, beside.champion is not None and beside.champion.version) == (False, version)
    assert beside.identity != alone.identity
    assert beside.measured == alone.measured


def test_the_champions_own_weights_are_only_to_judge(evaluation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request, run = evaluation
    version = crown(run, "a")
    monkeypatch.setattr(ledger, "comparisons", lambda *_: pytest.fail("nothing is compared"))
    inputs = EvaluateInputs.resolve(request, run)
    assert inputs.only_to_judge
    assert inputs.identity is not None
    assert inputs.identity["champion"] == {"champion": version, "same": True}
