"""Shipping WAL without a Postgres: settings, the names of segments, one call at a time; the rest is in tests/stack."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from deploy import wal_shipping
from deploy.backup_stack import BackupError, ComposeStack
from deploy.wal_source import State

MIB = 1 << 20


class Refusing(ComposeStack):
    """A stack that nothing may be asked of."""

    def __init__(self, running: set[str]) -> None:
        super().__init__(Path("none"))
        self._services = running

    def running(self, *, work: bool = False) -> set[str]:
        return self._services

    def sql(self, statement: str, database: str = "postgres", **variables: str) -> str:
        raise AssertionError(statement)


@pytest.mark.parametrize(
    ("number", "size", "expected"),
    [
        (1, 16 * MIB, "000000010000000000000001"),
        (255, 16 * MIB, "0000000100000000000000FF"),
        (256, 16 * MIB, "000000010000000100000000"),
        (64, 64 * MIB, "000000010000000100000000"),
    ],
)
def test_segments_have_the_names_that_postgres_gives_them(number: int, size: int, expected: str) -> None:
    state = State("7413-1", 1, size, now=0, limit="-1", held=None, slot=None)
    assert state.segment(number) == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"BACKUP_WAL": "yes"}, "BACKUP_WAL=yes is neither 1 nor 0"),
        ({"BACKUP_WAL_KEEP_DAYS": "week"}, "BACKUP_WAL_KEEP_DAYS=week is not a whole number of 0 or more"),
        ({"BACKUP_WAL_HELD_MB": "63"}, "BACKUP_WAL_HELD_MB=63 is not a whole number of 64 or more"),
        ({"BACKUP_KEY": "short"}, "BACKUP_KEY: a key has less than 32 characters"),
        ({"BACKUP_BUCKET": "kept"}, "BACKUP_BUCKET is set in .env, and"),
    ],
)
def test_a_wrong_setting_is_an_error_before_anything_is_done(
    changed: dict[str, str], expected: str, tmp_path: Path
) -> None:
    values = {"BACKUP_WAL": "1", "BACKUP_KEY": "k" * 64, "BACKUP_FOLDER": str(tmp_path / "kept")}
    with pytest.raises(Exception, match=expected):
        wal_shipping.run(Refusing({"postgres"}), values | changed, tmp_path / "wal.prom")


def test_turned_off_it_asks_nothing_of_a_stack_that_is_down_and_its_alerts_end(tmp_path: Path) -> None:
    metrics, held = tmp_path / "wal.prom", tmp_path / "wal_held.prom"
    for file in (metrics, held):
        file.touch()
    assert wal_shipping.run(Refusing(set()), {}, metrics) == ["BACKUP_WAL is not 1 in .env: no WAL is shipped"]
    assert not metrics.exists()
    assert not held.exists()


def test_a_second_call_is_told_that_it_is_not_alone(tmp_path: Path) -> None:
    with wal_shipping.alone(tmp_path, "ship-wal") as first, wal_shipping.alone(tmp_path, "ship-wal") as second:
        assert (first, second) == (True, False)
    with wal_shipping.alone(tmp_path, "ship-wal") as after:
        assert after


def test_a_call_that_may_wait_begins_when_the_other_ends(tmp_path: Path) -> None:
    other = wal_shipping.alone(tmp_path, "ship-wal")
    other.__enter__()
    ending = threading.Timer(0.5, other.__exit__, (None, None, None))
    ending.start()
    with wal_shipping.alone(tmp_path, "ship-wal", 60) as after:
        assert after
    ending.join()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    refused = pytest.raises(BackupError, match="No such file or directory; make BACKUP_FOLDER writable")
    with refused, wal_shipping.alone(tmp_path / "unmounted", "ship-wal"):
        pass
