from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import pytest
import requests
import torch
from mlflow import MlflowClient

from tasks.errors import ChangedError
from tasks.records import checkpoint_store, store_wait
from tasks.records.checkpoint_store import ARTIFACT, SHA256, CheckpointStore
from tasks.records.store_wait import StoreWait
from tasks.records.tracking import connect
from tasks.settings import Settings
from tasks.vision.training import checkpoints
from tests import stored_files


@pytest.fixture
def run_id(settings: Settings) -> str:
    experiment_id = connect(settings)
    return str(MlflowClient().create_run(experiment_id).info.run_id)


def state(epoch: int, weight: float = 0.0) -> dict[str, object]:
    return {"weights": torch.full((3,), weight), "history": [epoch]}


def folder_of(run_id: str) -> Path:
    """The checkpoints in the store, as somebody with a key to the bucket finds them."""
    return stored_files.of_run(run_id) / ARTIFACT


def trained(run_id: str, *epochs: int) -> None:
    """A try that saves after these epochs and is killed."""
    store = CheckpointStore(run_id, StoreWait(600))
    store.newest()
    for epoch in epochs:
        store.save(state(epoch), epoch)


def newest(run_id: str) -> object:
    found = CheckpointStore(run_id, StoreWait(600)).newest()
    return found and found["history"]


@pytest.mark.parametrize("epochs", [(1,), (1, 2), (1, 2, 3, 4, 5)])
def test_a_retry_finds_the_newest(run_id: str, epochs: tuple[int, ...]) -> None:
    trained(run_id, *epochs)
    assert newest(run_id) == [epochs[-1]]
    assert len(json.loads(mlflow.get_run(run_id).data.tags[SHA256])) == min(len(epochs), checkpoint_store.KEPT)


def test_two_tries_log_to_one_list(run_id: str) -> None:
    trained(run_id, 1, 2)
    trained(run_id, 3)
    assert newest(run_id) == [3]


def test_someone_elses_checkpoint_stops_the_retry(run_id: str) -> None:
    trained(run_id, 1, 2)
    checkpoints.save(state(9, weight=1.0), 9, folder_of(run_id))
    with pytest.raises(ChangedError, match="is not one that this training saved: someone put it there"):
        newest(run_id)


def test_one_put_there_before_the_first_epoch_ended_stops_the_retry(run_id: str) -> None:
    trained(run_id)
    checkpoints.save(state(9, weight=1.0), 9, folder_of(run_id))
    with pytest.raises(ChangedError, match="someone put it there"):
        newest(run_id)


def test_an_old_one_in_the_place_of_a_later_one_stops_the_retry(run_id: str, tmp_path: Path) -> None:
    trained(run_id, 1)
    shutil.copytree(folder_of(run_id), tmp_path / "epoch 1")
    trained(run_id, 2, 3, 4, 5)
    for file in (tmp_path / "epoch 1").iterdir():
        shutil.copy(file, folder_of(run_id))
    with pytest.raises(ChangedError, match="someone put it there"):
        newest(run_id)


@pytest.mark.parametrize("left", ["nothing", "tensors", "half the tensors"])
def test_a_try_that_ends_while_it_writes_leaves_the_one_before(
    run_id: str, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    trained(run_id, 1, 2)
    log_artifact = MlflowClient.log_artifact

    def killed(client: MlflowClient, run_id: str, path: str, place: str) -> None:
        if path.endswith(".pt") and left == "tensors":
            log_artifact(client, run_id, path, place)
            return
        if left == "half the tensors":
            (folder_of(run_id) / Path(path).name).write_bytes(Path(path).read_bytes()[:100])
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", killed)
        with pytest.raises(SystemExit):
            trained(run_id, 3)
    assert newest(run_id) == [2]
    trained(run_id, 3)
    assert newest(run_id) == [3]


def test_a_run_that_an_earlier_release_began_is_gone_on_with(run_id: str) -> None:
    trained(run_id, 1, 2)
    MlflowClient().delete_tag(run_id, SHA256)
    assert newest(run_id) == [2]
    trained(run_id, 3)  # the other slot still holds what the earlier release saved
    assert newest(run_id) == [3]
    checkpoints.save(state(9, weight=1.0), 9, folder_of(run_id))
    with pytest.raises(ChangedError, match="someone put it there"):
        newest(run_id)


def test_a_checkpoint_in_the_middle_of_an_epoch_is_newer_than_the_one_before_it_and_kept_beside_it(run_id: str) -> None:
    store = CheckpointStore(run_id, StoreWait(600))
    store.newest()
    for epoch, step in ((1, 0), (1, 40), (1, 80)):
        store.save({"history": [epoch, step]}, epoch, step)
    assert newest(run_id) == [1, 80]
    later = CheckpointStore(run_id, StoreWait(600))
    later.newest()
    later.save({"history": [1, 120]}, 1, 120)
    assert newest(run_id) == [1, 120]
    (folder_of(run_id) / "checkpoint-0.pt").write_bytes(b"cut short")
    assert newest(run_id) == [1, 80]


def test_a_store_that_is_away_is_waited_for_and_a_full_one_is_not(
    run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_wait, "FIRST_PAUSE", 0.01)
    log_artifact = MlflowClient.log_artifact
    errors: list[Exception] = [ConnectionError("refused"), TimeoutError("slow")]

    def disturbed(client: MlflowClient, run_id: str, path: str, place: str) -> None:
        log_artifact(client, run_id, path, place)  # what is written is not always answered
        if errors:
            raise errors.pop()

    monkeypatch.setattr(MlflowClient, "log_artifact", disturbed)
    trained(run_id, 1)
    assert newest(run_id) == [1]
    assert [line.split(",")[0] for line in caplog.messages] == [
        "waiting to write a checkpoint",
        "the store answers again after 0 s; going on",
    ]
    errors.append(requests.HTTPError("507 Server Error: Insufficient Storage for url: http://mlflow:5000/api"))
    with pytest.raises(requests.HTTPError):
        trained(run_id, 2)
