"""What `make gc` finds and removes, and what it never touches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient

from benchmarks.old_installation import Writer, add_records
from tasks.__main__ import main
from tasks.cli import leftovers as command
from tasks.contract.stages import STAGES
from tasks.records import ledger, paging, queries, registry, tracking
from tasks.records.gold_store import GOLD_RUN
from tasks.retention import known_runs, leftovers
from tasks.retention.leftovers import Kind, Leftover, Store
from tasks.settings import Settings

NOW = datetime.now(UTC)
LONG_AGO = int((NOW - timedelta(days=30)).timestamp() * 1000)
LIMIT = NOW - timedelta(days=7)
Make = Callable[..., str]


@pytest.fixture
def experiment_id(settings: Settings) -> str:
    return tracking.connect(settings)


@pytest.fixture
def make(experiment_id: str, tmp_path: Path) -> Make:
    """Make a stage's run of long ago, with what it holds; returns its ID."""

    def run(
        stage: str, dag_run_id: str = "old", *, started: int = LONG_AGO, ended: int | None = LONG_AGO, **more: Any
    ) -> str:
        client = MlflowClient()
        tags = {"pipeline.dag_id": "daily", "pipeline.dag_run_id": dag_run_id, "pipeline.stage": stage}
        tags |= more.get("tags", {})
        run_id = str(client.create_run(experiment_id, start_time=started, tags=tags).info.run_id)
        for name, value in more.get("params", {}).items():
            client.log_param(run_id, name, value)
        for folder in more.get("holds", []):
            file = tmp_path / "file.bin"
            file.write_bytes(b"x" * 1000)
            client.log_artifact(run_id, str(file), folder)
            if folder == "gold":
                client.set_tag(run_id, GOLD_RUN, run_id)
        if ended is not None:
            client.set_terminated(run_id, more.get("status", "FAILED"), end_time=ended)
        return run_id

    return run


def find(settings: Settings) -> list[Leftover]:
    return command.find(settings, LIMIT, Store.read(settings, LIMIT))


def found(settings: Settings) -> set[tuple[Kind, str]]:
    return {(item.kind, item.run_id) for item in find(settings)}


def folders(run_id: str) -> list[str]:
    return [file.path for file in MlflowClient().list_artifacts(run_id)]


def collected(settings: Settings) -> list[Leftover]:
    items = find(settings)
    for item in items:
        command.remove(item, settings)
    return items


# --- What is found


def test_an_empty_store_has_no_leftovers(settings: Settings, experiment_id: str) -> None:
    assert find(settings) == []


def test_runs_without_an_end_are_ended(settings: Settings, make: Make) -> None:
    parent, train = make("pipeline", ended=None), make("train", ended=None)
    assert {item.run_id for item in collected(settings)} == {parent, train}
    for run_id in (parent, train):
        run = MlflowClient().get_run(run_id)
        assert run.info.status == "KILLED"
        assert "no activity since" in run.data.tags[tracking.ERROR_TAG]
    assert find(settings) == []


def test_gold_and_checkpoints_that_nothing_refers_to_are_removed_and_their_runs_stay(
    settings: Settings, make: Make
) -> None:
    older = make("prepare", holds=["gold", "plots"], params={"dataset": "digits"})
    newest = make("prepare", "later", started=LONG_AGO + 1, holds=["gold"], params={"dataset": "digits"})
    train = make("train", holds=["checkpoints", "onnx", "plots"])  # onnx: an ONNX form that was exported later
    items = collected(settings)
    assert {(item.kind, item.run_id, item.size) for item in items} == {
        (Kind.GOLD, older, 1000),
        (Kind.CHECKPOINTS, train, 1000),
    }
    assert [folders(run_id) for run_id in (older, newest, train)] == [["plots"], ["gold"], ["onnx", "plots"]]
    assert find(settings) == []


def test_what_a_killed_prepare_decoded_is_removed_once_nobody_tries_again(settings: Settings, make: Make) -> None:
    today = int(NOW.timestamp() * 1000)
    killed = make("prepare", holds=["decoded"], status="KILLED")
    gold = make("prepare", "later", started=LONG_AGO + 1, holds=["gold", "decoded"], params={"dataset": "digits"})
    retried = make("prepare", "retried", started=LONG_AGO, ended=today, holds=["decoded"], status="KILLED")
    assert {(item.kind, item.run_id, item.size) for item in collected(settings)} == {
        (Kind.DECODED, killed, 1000),
        (Kind.DECODED, gold, 1000),  # the newest gold stays, what it was made of does not
    }
    assert [folders(run_id) for run_id in (killed, gold, retried)] == [[], ["gold"], ["decoded"]]


def test_the_state_of_a_search_that_was_given_up_is_removed(settings: Settings, make: Make) -> None:
    tune, deleted, anothers = make("tune"), make("tune", "deleted"), "0" * 32
    running = make("tune", "new", started=int(NOW.timestamp() * 1000), ended=None)
    MlflowClient().delete_run(deleted)
    for run_id in (tune, deleted, anothers, running):
        folder = settings.pipeline_home / "tune" / run_id / "try-000"
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text("{}")
    assert {(item.kind, item.run_id) for item in collected(settings)} == {(Kind.SEARCH, tune), (Kind.SEARCH, deleted)}
    assert {folder.name for folder in (settings.pipeline_home / "tune").iterdir()} == {anothers, running}


# --- What is not


def test_nothing_of_a_dag_run_that_shows_a_sign_of_life(settings: Settings, make: Make) -> None:
    """Its first stages ended long ago; the last one began a month ago too, and logs metrics."""
    make("prepare", holds=["gold"])
    make("prepare", "other", started=LONG_AGO + 1, holds=["gold"])  # the newest, which is kept anyway
    train = make("train", ended=None, holds=["checkpoints"])
    assert len(found(settings)) == 3
    MlflowClient().log_metric(train, "train_loss", 1.0, step=1, timestamp=int(NOW.timestamp() * 1000))
    assert found(settings) == set()


def test_nothing_that_a_living_dag_run_refers_to(settings: Settings, make: Make) -> None:
    gold = make("prepare", holds=["gold"])
    make("prepare", "other", started=LONG_AGO + 1, holds=["gold"])
    today = int(NOW.timestamp() * 1000)
    make("prepare", "today", started=today, ended=today, tags={GOLD_RUN: gold})
    assert found(settings) == set()


@pytest.mark.parametrize("by", ["version", "record", "reuse"])
def test_nothing_that_a_version_or_a_record_refers_to(
    settings: Settings, make: Make, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    gold = make("prepare", holds=["gold"])
    make("prepare", "other", started=LONG_AGO + 1, holds=["gold"])
    again = make("prepare", "third", tags={GOLD_RUN: gold})
    train = make("train", holds=["checkpoints"], tags={"pipeline.prepare_run_id": again})
    evaluate = make("evaluate", params={"train_run_id": train})
    assert found(settings) == {(Kind.GOLD, gold), (Kind.CHECKPOINTS, train)}
    if by == "version":
        registry.create_version("cats", f"runs:/{train}/model", train, {}, "")
    elif by == "record":
        monkeypatch.setattr(ledger, "load_settings", lambda: settings)
        entry = ledger.Entry("daily/old/register", ledger.Kind.REFUSAL, "cats", 1, 1, 2, "sha", "a test", "", evaluate)
        with ledger.recorded(entry):
            pass
    else:
        today = int(NOW.timestamp() * 1000)
        make("evaluate", "today", started=today, ended=today, tags={tracking.REUSED_FROM: evaluate})
    # A registered model is never trained further in its run, so the checkpoints go.
    assert found(settings) == ({(Kind.CHECKPOINTS, train)} if by == "version" else set())


def test_a_dry_run_says_so_and_changes_nothing(
    settings: Settings, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    train = make("train", ended=None, holds=["checkpoints"])
    assert main(["gc"]) == 0
    assert "2 would be removed; APPLY=1" in capsys.readouterr().out
    assert folders(train) == ["checkpoints"]
    assert main(["gc", "--apply"]) == 0
    said = capsys.readouterr().out
    assert f"checkpoints     daily/old train  {train}" in said
    assert "2 removed" in said
    assert folders(train) == []
    assert main(["gc", "--apply"]) == 0
    assert "nothing is left over" in capsys.readouterr().out


@pytest.mark.parametrize("days", ["-1", "x"])
def test_days_that_are_none(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--days", days]) == 2
    assert days in capsys.readouterr().err


# --- However much there is


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE", 3)


def test_what_only_a_version_on_a_later_page_refers_to(settings: Settings, make: Make, small_pages: None) -> None:
    """More registered models, versions and runs than fit a page; each page is of three."""
    golds = [make("prepare", f"day-{day}", started=LONG_AGO + day, holds=["gold"]) for day in range(8)]
    trains = [
        make("train", f"day-{day}", started=LONG_AGO + day, tags={"pipeline.prepare_run_id": gold})
        for day, gold in enumerate(golds)
    ]
    for day, train in enumerate(trains[1:6]):
        registry.create_version(f"model-{day}", f"runs:/{train}/model", train, {}, "")
    for _ in range(4):
        registry.create_version("model-0", f"runs:/{trains[1]}/model", trains[1], {}, "")
    registry.create_version("model-0", f"runs:/{trains[6]}/model", trains[6], {}, "")
    assert found(settings) == {(Kind.GOLD, golds[0])}  # that of the last day is the newest


def test_what_only_the_oldest_of_many_records_refers_to(settings: Settings, make: Make) -> None:
    gold, left = (make("prepare", day, holds=["gold"]) for day in ("first", "second"))
    make("prepare", "newest", started=LONG_AGO + 1, holds=["gold"])
    evaluate = make("evaluate", "first", tags={"pipeline.prepare_run_id": gold})
    entries = [
        ledger.Entry(f"daily/{n}/register", ledger.Kind.REFUSAL, "cats", 1, 1, n, f"sha{n}", "a test", "", evaluate)
        for n in range(1005)
    ]
    records_in = tracking.experiment(ledger.EXPERIMENT)
    engine = sqlalchemy.create_engine(settings.tracking_uri)
    others = [replace(entry, evidence_run_id=None) for entry in entries[1:]]
    with Writer(engine) as writer:
        add_records(writer, records_in, ((entry, LONG_AGO + n) for n, entry in enumerate([entries[0], *others])))
    engine.dispose()
    assert found(settings) == {(Kind.GOLD, left)}


def test_a_search_of_many_trials_is_active_while_one_of_them_is(
    settings: Settings, make: Make, small_pages: None
) -> None:
    gold = make("prepare", holds=["gold"])
    make("prepare", "newest", started=LONG_AGO + 1, holds=["gold"])
    for number in range(8):
        make("trial", started=LONG_AGO + 10 + number)
    assert found(settings) == {(Kind.GOLD, gold)}
    make("trial", ended=int(NOW.timestamp() * 1000))
    assert found(settings) == set()


def test_every_stage_is_read_unless_nothing_refers_to_its_runs() -> None:
    assert set(known_runs.REFERRED_TO) | known_runs.LAST_OF_A_DAY == set(STAGES)


# --- While others write


def test_a_run_that_begins_while_the_others_are_read_keeps_what_it_refers_to(
    settings: Settings, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gold = make("prepare", holds=["gold"])
    make("prepare", "newest", started=LONG_AGO + 1, holds=["gold"])
    today = int(datetime.now(UTC).timestamp() * 1000)
    real = queries.all_runs

    def all_runs(experiment_id: str, tags: dict[str, str], **others: Any) -> Any:
        if others.get("status") == "SCHEDULED":  # the runs of prepare were read by then
            make("prepare", "now", started=today, ended=None, tags={GOLD_RUN: gold})
        return real(experiment_id, tags, **others)

    assert found(settings) == {(Kind.GOLD, gold)}
    monkeypatch.setattr(queries, "all_runs", all_runs)
    assert found(settings) == set()


def test_gold_that_is_used_between_finding_and_removing_stays(
    settings: Settings, make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gold, other = make("prepare", holds=["gold"]), make("prepare", "second", started=LONG_AGO + 1, holds=["gold"])
    make("prepare", "newest", started=LONG_AGO + 2, holds=["gold"])
    real = leftovers.find

    def find(*given: Any) -> list[Leftover]:
        found = real(*given)
        make("prepare", "now", started=int(NOW.timestamp() * 1000), ended=None, tags={GOLD_RUN: gold})
        return found

    monkeypatch.setattr(leftovers, "find", find)
    assert main(["gc", "--apply"]) == 0
    assert "1 removed; gold of daily/old prepare is used again" in capsys.readouterr().out
    assert [folders(run_id) for run_id in (gold, other)] == [["gold"], []]
