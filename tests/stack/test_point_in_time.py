"""`make ship-wal` and `make restore-to` on a real engine: times are restored exactly, and faults are noticed."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from deploy import backup, point_in_time
from deploy.backup_stack import ComposeStack

from .conftest import ROOT, Stack, _bare_environment
from .shipping import BUCKET, Shipping, containers, shipping, until, volumes, with_store

pytestmark = pytest.mark.docker


@pytest.fixture
def moments(stack: Stack) -> Iterator[None]:
    """A table with no rows; nothing of it, and no replication slot, is left afterwards."""
    created = stack.psql("mlflow", "mlflow", "DROP TABLE IF EXISTS moments; CREATE TABLE moments (n int)")
    assert created.returncode == 0, created.stderr
    yield
    stack.psql("mlflow", "mlflow", "DROP TABLE IF EXISTS moments")


@pytest.fixture
def shipped(stack: Stack, moments: None, tmp_path: Path) -> Iterator[Shipping]:
    """WAL is shipped to a folder, and there is a base backup."""
    found = shipping(stack, tmp_path)
    said = found.ship()
    assert "base backup: " in said
    yield found
    assert "the replication slot was removed" in shipping(stack, tmp_path, BACKUP_WAL="0").ship()
    assert found.as_superuser("SELECT count(*) FROM pg_replication_slots") == "0"
    assert found.values() == {}


def test_a_time_is_restored_exactly_and_that_can_be_undone(shipped: Shipping) -> None:
    shipped.insert(1)
    shipped.compose("restart", "postgres")
    shipped.compose("up", "--detach", "--wait", "--no-recreate")
    shipped.ship()
    shipped.insert(2)
    moment = shipped.now()
    shipped.insert(3)
    assert "base backup" not in shipped.ship()
    shipped.insert(4)
    later = datetime.fromisoformat(shipped.now())

    said = shipped.run("restore-to", "--time", moment)
    assert shipped.rows() == [1, 2]
    assert f"the databases are those of {moment}; objects made since stay in the bucket" in said
    assert shipped.states()["mlflow"] == "healthy"
    assert containers(f"{shipped.network}-point") + volumes(f"{shipped.network}-point") == []
    assert [path.name for path in shipped.folder.iterdir() if path.is_dir()] == []

    shipped.insert(5)
    before = next(wal.time for wal in shipped.kept().wal if wal.time > later)
    shipped.run("restore-to", "--time", before.isoformat())
    assert shipped.rows() == [1, 2, 3, 4], "what the restore itself had shipped before it began"


def test_a_time_outside_of_what_is_kept_is_refused_and_the_nearest_is_named(shipped: Shipping) -> None:
    [span] = shipped.kept().usable()
    said = shipped.run("restore-to", "--time", "2001-01-01T00:00:00Z", code=66)
    nearest = span.start.isoformat().replace("+00:00", "Z")
    assert f"TIME=2001-01-01T00:00:00Z cannot be restored; the nearest that can: {nearest}. Kept: {nearest} to " in said
    assert f"Kept: {nearest} to " in shipped.run("restore-to", code=64)
    assert containers(f"{shipped.network}-point") == []


def test_a_hole_is_found_by_the_next_call_which_begins_anew(shipped: Shipping) -> None:
    shipped.ship()
    within = shipped.now()
    shipped.ship()
    lost = shipped.kept().wal[-1]
    (shipped.folder / lost.name).unlink()
    said = shipped.ship()
    assert "base backup: " in said
    assert re.search(rf"\d+ WAL segments are missing between .*-{lost.first - 1:010}-.* and .*; those times", said)
    assert shipped.values()["backup_wal_last_hole_timestamp_seconds"] >= int(lost.time.timestamp())
    assert "cannot be restored; the nearest that can: " in shipped.run("restore-to", "--time", within, code=66)


def test_another_key_restores_nothing(shipped: Shipping, stack: Stack, tmp_path: Path) -> None:
    shipped.insert(1)
    key = stack.variables["BACKUP_KEY"]
    other = shipping(stack, tmp_path, BACKUP_KEY=key[::-1])
    moment = f"{shipped.kept().usable()[0].end:%Y-%m-%dT%H:%M:%S.%fZ}"
    assert "no key in BACKUP_KEY of .env made it" in other.run("restore-to", "--time", moment, code=65)
    assert shipped.rows() == [1]
    assert [path.name for path in shipped.folder.iterdir() if path.is_dir()] == []
    shipping(stack, tmp_path)


def test_a_changed_byte_restores_nothing(shipped: Shipping) -> None:
    shipped.insert(1)
    file = shipped.folder / shipped.kept().wal[-1].name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    said = shipped.run("restore-to", "--time", "latest", code=65)
    assert f"{file.name}: block 1 of it is not what was written" in said
    assert shipped.rows() == [1]


def test_a_second_call_does_nothing(shipped: Shipping) -> None:
    before = shipped.names()
    with (shipped.folder / ".ship-wal.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert shipped.ship() == "another ship-wal is at work\n"
    assert shipped.names() == before


def test_an_older_copy_of_postgres_does_not_write_over_the_history_of_the_newer(shipped: Shipping) -> None:
    """Names as the newer one would have left them: its segments have the numbers that the older one is yet to write."""
    newest = shipped.kept().wal[-1]
    (shipped.folder / replace(newest, first=newest.last + 1, last=newest.last + 500).name).touch()
    assert "its volume is an older copy of itself; name another BACKUP_FOLDER" in shipped.run("ship-wal", code=65)


@pytest.fixture(scope="module")
def store(stack: Stack) -> Any:
    """The bucket of the WAL."""
    client = stack.store
    client.create_bucket(Bucket=BUCKET)
    return client


def test_a_restore_from_a_bucket_that_was_killed_twice_goes_on(
    store: Any, stack: Stack, moments: None, tmp_path: Path
) -> None:
    shipped = with_store(stack, tmp_path)
    shipped.ship()
    shipped.insert(1)
    moment = shipped.now()
    shipped.insert(2)
    try:
        for moment_of_the_kill in (
            lambda: bool(containers(f"{shipped.network}-point")),
            lambda: shipped.states()["mlflow"] != "healthy",
        ):
            process = subprocess.Popen(
                shipped.command("restore-to", "--time", moment),
                cwd=ROOT,
                env=_bare_environment(),
                start_new_session=True,
            )
            until(moment_of_the_kill, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if shipped.states().get("mlflow") == "healthy":
                assert shipped.rows() == [1, 2], "kept until the restore has succeeded"
        said = shipped.run("restore-to", "--time", "2001-01-01T00:00:00Z", code=73)
        assert f"a restore to {moment} was interrupted: TIME={moment} goes on with it" in said
        shipped.run("restore-to", "--time", moment)
        assert shipped.rows() == [1]
        assert shipped.states()["mlflow"] == "healthy"
        assert containers(f"{shipped.network}-point") + volumes(f"{shipped.network}-point") == []
        assert {path.name for path in shipped.folder.iterdir()} <= {
            f".{name}.lock" for name in ("ship-wal", "base-backup", "restore-to")
        }
    finally:
        shipping(stack, tmp_path, BACKUP_WAL="0").ship()


def test_a_drill_gets_the_databases_of_the_time_and_the_objects_of_now(
    shipped: Shipping, stack: Stack, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(stack.variables) & set(os.environ):
        monkeypatch.delenv(name)
    store.put_object(Bucket="mlflow", Key="made-since/object", Body=b"content")
    members: list[str] = []

    def look(file: Path) -> list[str]:
        members.extend(backup.authenticated(file, [stack.variables["BACKUP_KEY"]]).verify())
        return ["looked"]

    said = point_in_time.save_newest(ComposeStack(shipped.env_file), "latest", look)
    assert said[-1] == "looked"
    expected = {"databases/airflow.dump", "databases/mlflow.dump", "databases/mlflow_auth.dump"}
    assert expected | {"bucket/made-since/object"} <= set(members)
    assert [path.name for path in shipped.folder.iterdir() if path.is_dir()] == []
    assert containers(f"{shipped.network}-point") == []


def test_when_the_place_refuses_postgres_holds_back_wal_up_to_the_limit_and_says_when_it_gave_up(
    shipped: Shipping, store: Any, stack: Stack, tmp_path: Path
) -> None:
    """A bucket that refuses stands for a place that cannot be written; the limit is as small as it may be."""
    refused = with_store(stack, tmp_path, BACKUP_S3_SECRET_KEY="of-somebody-else", BACKUP_WAL_HELD_MB="64")
    success = shipped.values()["backup_wal_last_success_timestamp_seconds"]
    assert f"bucket '{BUCKET}' at http://s3:9000: " in refused.run("ship-wal", code=69)
    again = shipping(stack, tmp_path, BACKUP_WAL_HELD_MB="64")
    again.ship()
    for _ in range(3):
        again.as_superuser("SELECT pg_current_xact_id() IS NOT NULL FROM pg_switch_wal()")
    refused = with_store(stack, tmp_path, BACKUP_S3_SECRET_KEY="of-somebody-else", BACKUP_WAL_HELD_MB="64")
    refused.run("ship-wal", code=69)
    values = refused.values()
    assert 16 << 20 < values["backup_wal_held_bytes"] <= values["backup_wal_held_limit_bytes"] == 64 << 20
    assert values["backup_wal_last_success_timestamp_seconds"] >= success

    for _ in range(6):
        again.as_superuser("SELECT pg_current_xact_id() IS NOT NULL FROM pg_switch_wal()")
    again.as_superuser("CHECKPOINT")
    assert again.as_superuser("SELECT wal_status FROM pg_replication_slots") == "lost"
    again = shipping(stack, tmp_path, BACKUP_WAL_HELD_MB="64")
    said = again.ship()
    assert "Postgres gave up WAL that could not be shipped, at BACKUP_WAL_HELD_MB=64: " in said
    assert "base backup: " in said
    assert "those times cannot be restored" in said
    shipped.insert(1)
    again.ship()
    assert again.kept().usable()[-1].end > again.kept().holes()[0].after.time
