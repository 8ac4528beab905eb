from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.files import sha256
from tasks.records import decoded_store
from tasks.records.decoded_store import SHA256, DecodedStore
from tasks.records.tracking import connect
from tasks.settings import Settings

FINGERPRINT = "f" * 64


@pytest.fixture
def run_id(settings: Settings) -> str:
    experiment_id = connect(settings)
    return str(MlflowClient().create_run(experiment_id).info.run_id)


def keep(store: DecodedStore, folder: Path, *texts: str) -> list[str]:
    """Store a part of each text, several at a time; returns their names."""

    def one(text: str) -> str:
        part = folder / text
        part.write_text(text)
        digest = sha256(part)
        store.store(part, digest)
        return f"{digest}.npy"

    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, texts))


def tags(run_id: str) -> dict[str, str]:
    return {n: v for n, v in MlflowClient().get_run(run_id).data.tags.items() if n.startswith(SHA256)}


def test_a_retry_finds_all_parts_however_many(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_store, "PARTS_OF_A_TAG", 3)
    names = keep(DecodedStore(run_id, FINGERPRINT), tmp_path / "parts", *map(str, range(7)))
    assert sorted(len(value.split()) for value in tags(run_id).values()) == [2, 4, 4]
    second = DecodedStore(run_id, FINGERPRINT)
    names += keep(second, tmp_path / "parts", "7", "8", "9")
    assert sorted(len(value.split()) for value in tags(run_id).values()) == [2, 4, 4, 4]
    third = DecodedStore(run_id, FINGERPRINT)
    assert sorted(third.names()) == sorted(names)
    part = third.fetch(names[3], tmp_path)
    assert part is not None
    assert part.read_text() == "3"
    third.remove()
    assert tags(run_id) == {}
    assert MlflowClient().list_artifacts(run_id) == []
    assert DecodedStore(run_id, FINGERPRINT).names() == []


def test_a_full_tag_is_one_that_mlflow_takes(run_id: str, tmp_path: Path) -> None:
    """It would cut a longer one short."""
    store = DecodedStore(run_id, FINGERPRINT)
    keep(store, tmp_path / "parts", *map(str, range(decoded_store.PARTS_OF_A_TAG)))
    (value,) = tags(run_id).values()
    assert len(value.split()) == 1 + decoded_store.PARTS_OF_A_TAG
    assert len(value) < 5000


def test_a_part_whose_digest_is_in_no_tag_does_not_count(run_id: str, tmp_path: Path) -> None:
    (name,) = keep(DecodedStore(run_id, FINGERPRINT), tmp_path / "parts", "ours")
    (tmp_path / "theirs.npy").write_text("theirs")
    MlflowClient().log_artifact(run_id, str(tmp_path / "theirs.npy"), decoded_store.ARTIFACT)
    assert DecodedStore(run_id, FINGERPRINT).names() == [name]


def test_a_part_that_was_changed_is_left_out(run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (name,) = keep(DecodedStore(run_id, FINGERPRINT), tmp_path / "parts", "ours")
    (tmp_path / name).write_text("theirs")
    MlflowClient().log_artifact(run_id, str(tmp_path / name), decoded_store.ARTIFACT)
    assert DecodedStore(run_id, FINGERPRINT).fetch(name, tmp_path / "parts") is None
    assert f"decoded/{name} of run {run_id} was changed in the store" in caplog.text
    assert not (tmp_path / "parts" / name).exists()


@pytest.mark.parametrize("changed", ["fingerprint", "format"])
def test_parts_of_something_else_are_removed(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    keep(DecodedStore(run_id, FINGERPRINT), tmp_path / "parts", "1", "2")
    if changed == "format":
        monkeypatch.setattr(decoded_store, "FORMAT", 0)
    other = DecodedStore(run_id, "e" * 64 if changed == "fingerprint" else FINGERPRINT)
    assert other.names() == []
    assert tags(run_id) == {}
    assert not mlflow.artifacts.list_artifacts(run_id=run_id)


def test_a_store_without_parts_is_asked_nothing(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DecodedStore(run_id, FINGERPRINT)
    monkeypatch.delattr(MlflowClient, "list_artifacts")
    assert store.names() == []
    store.remove()
