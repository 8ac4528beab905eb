"""Gold whose store goes away in the middle of an epoch: the training waits, and goes on with the very next batch."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial

import mlflow
import numpy as np
import pytest

from tasks.contract.recipe import Recipe
from tasks.errors import DataError, UnavailableError
from tasks.records import gold_store, store_wait, tracking
from tasks.records.store_wait import StoreWait
from tasks.settings import Settings
from tasks.vision.data.shards import read_ahead, reader, writer
from tasks.vision.data.shards.images import ShardImages
from tasks.vision.training import order
from tasks.vision.training.events import BatchEnd, EpochEnd, Event
from tasks.vision.training.loop import Training
from tests.artifact_server import ArtifactServer
from tests.digits import digits_as_gold
from tests.waiting import until

IMAGE = 8 * 8
STEPS = 20  # of an epoch
RECIPE = Recipe.model_validate({"epochs": 2, "batch_size": 5, "device": "cpu", "log_every": 1})


@pytest.fixture
def gold_run_id(store: ArtifactServer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """Gold in small shards, of which an epoch reads a few at a time; MLflow's client tries everything once."""
    for module in (order, read_ahead, reader):
        monkeypatch.setattr(module, "WINDOW_BYTES", 30 * IMAGE)
    monkeypatch.setattr(writer, "save", partial(writer.save, shard_bytes=9 * IMAGE))
    monkeypatch.setattr(store_wait, "FIRST_PAUSE", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with mlflow.start_run(experiment_id=tracking.connect(settings)) as run:
        gold_store.store(digits_as_gold(100, 40))
    return str(run.info.run_id)


def losses(events: list[Event]) -> list[float]:
    return [event.loss if isinstance(event, BatchEnd) else event.train_loss for event in events]


def train(gold_run_id: str, settings: Settings, events: list[Event]) -> None:
    """Train on gold that stays on disk, one event after the other."""
    gold = gold_store.open_made_by(gold_run_id, None, settings.model_copy(update={"pipeline_gold_memory_mib": 0}))
    images = gold.train.images
    assert isinstance(images, ShardImages)
    with closing(images):  # what was expected is not fetched any more
        for event in Training(RECIPE, gold).run():
            if isinstance(event, BatchEnd | EpochEnd):
                events.append(event)


def test_a_training_waits_for_a_store_and_has_the_losses_of_one_that_did_not(
    gold_run_id: str, store: ArtifactServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed, events = list[Event](), list[Event]()
    train(gold_run_id, settings, undisturbed)
    store.shards.clear()
    store.shards_left = 8
    steps: list[int] = []

    def disturb() -> None:
        until(lambda: len(store.shards) > 8 and events)
        store.leave()
        until(lambda: "waiting to read gold/" in caplog.text)
        steps.append(len(events))
        store.start()

    other = threading.Thread(target=disturb)
    other.start()
    train(gold_run_id, settings, events)
    other.join()
    assert 0 < steps[0] < STEPS
    assert losses(events) == losses(undisturbed)
    told = [record.message for record in caplog.records if record.name == "tasks.store"]
    # A file that broke off before the store came back may be noticed after it: then it is told twice.
    assert [line.split()[0] for line in told] == ["waiting", "the"] * (len(told) // 2), told
    assert "for up to 600 s: " in told[0]
    assert told[1].startswith("the store answers again after ")


def test_a_store_that_stays_away_ends_it_to_be_tried_again(
    gold_run_id: str, store: ArtifactServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_STORE_WAIT_SECONDS", "1")
    events: list[Event] = []
    store.shards_left = 8

    def disturb() -> None:
        until(lambda: len(store.shards) > 8 and events)
        store.leave()

    other = threading.Thread(target=disturb)
    other.start()
    with pytest.raises(UnavailableError) as raised:
        train(gold_run_id, settings, events)
    other.join()
    assert 0 < len(events) < STEPS
    assert "the store was away for 1 s (PIPELINE_STORE_WAIT_SECONDS) while the stage waited to read gold/" in str(
        raised.value
    )
    assert f"of run {gold_run_id}; a retry goes on from here" in str(raised.value)


def test_a_file_that_breaks_off_is_fetched_again(
    gold_run_id: str, store: ArtifactServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    on_disk = settings.model_copy(update={"pipeline_gold_memory_mib": 0})
    images = gold_store.open_made_by(gold_run_id, None, on_disk).train.images
    store.breaks = 1
    np.testing.assert_array_equal(images[:], digits_as_gold(100, 40).train.images)
    assert any("a download broke off (" in line for line in caplog.messages)


def test_what_is_missing_is_not_waited_for(gold_run_id: str, store: ArtifactServer, settings: Settings) -> None:
    on_disk = settings.model_copy(update={"pipeline_gold_memory_mib": 0})
    images = gold_store.open_made_by(gold_run_id, None, on_disk).train.images
    (shard,) = store.folder.rglob("train-00003-of-00012.npy")
    shard.unlink()
    with pytest.raises(DataError, match=rf"gold/{shard.name} of run {gold_run_id} is missing in the store; restore it"):
        images[:]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.pauses = 1000.0, list[float]()
        monkeypatch.setattr("tasks.records.store_wait.time.monotonic", lambda: self.now)
        monkeypatch.setattr("tasks.records.store_wait.time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def test_pauses_grow_and_a_line_now_and_then_says_how_long_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), list[str]()

    def read() -> None:
        raise ConnectionRefusedError("refused")

    with pytest.raises(UnavailableError, match=r"away for 100 s .* while the stage waited to read it; "):
        StoreWait(100, said.append)(read, "to read it")
    assert clock.pauses == [1, 2, 4, 8, 16, 30, 30, 9]
    assert [line.split(":")[0] for line in said] == [
        f"waiting to read it, for up to {left} s" for left in (100, 69, 39, 9)
    ]


def test_each_outage_may_last_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), list[str]()
    answers = iter([False] * 5 + [True] + [False] * 5 + [True])

    def read() -> str:
        if not next(answers):
            raise TimeoutError("slow")
        return "bytes"

    wait = StoreWait(40, said.append)
    assert [wait(read, "to read it"), wait(read, "to read it")] == ["bytes", "bytes"]
    assert clock.now == 1000 + 2 * 31
    assert said[1] == "the store answers again after 31 s; going on"
    assert len(said) == 4


def test_other_errors_are_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def refused() -> None:
        raise PermissionError("403")

    def missing() -> None:
        try:
            raise ConnectionError("too many 500 error responses")
        except ConnectionError as error:
            raise DataError("the file is missing") from error

    for read, expected in ((refused, PermissionError), (missing, DataError)):
        with pytest.raises(expected):
            StoreWait(100)(read, "to read it")
    assert not clock.pauses
