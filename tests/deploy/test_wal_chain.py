"""Which times the names of base backups and WAL files offer, where something is missing, and what may be deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from deploy.backup_stack import BackupError
from deploy.wal_chain import Base, Kept, Wal, joined, shown, time_given

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINE, OTHER = "7413-1", "9999-1"


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def base(segment: int, minutes: float, history: str = MINE) -> Base:
    return Base(history, segment, at(minutes))


def wal(first: int, last: int, minutes: float, history: str = MINE) -> Wal:
    return Wal(history, first, last, at(minutes))


def kept(*files: Base | Wal) -> Kept:
    return Kept([file.name for file in files])


def test_names_say_all_and_those_of_others_are_left_out() -> None:
    one, two = base(3, 0.25), wal(3, 12345678901, 4)
    found = Kept([two.name, "vision-mlops-20260301T120000Z.backup", ".ship-wal.lock", one.name, "copy-" + one.name])
    assert (found.bases, found.wal) == ([one], [two])
    assert one.name == "vision-mlops-base-7413-1-0000000003-20260301T120015.000000Z.backup"


def test_any_time_between_a_base_backup_and_the_newest_wal_can_be_restored_from_the_nearest_base() -> None:
    early, late = base(1, 0), base(3, 10)
    files = [wal(1, 1, 4), wal(2, 3, 8), wal(4, 4, 12), wal(5, 5, 16)]
    state = kept(early, late, *files)
    assert state.plan(at(0)).until(at(0)) == [early.name, files[0].name]
    assert state.plan(at(9.9)).until(at(9.9)) == [early.name, *(file.name for file in files[:3])]
    assert state.plan(at(10)).until(at(12)) == [late.name, files[1].name, files[2].name]
    assert state.plan(at(16)).base == late
    assert joined(state.usable()) == [(at(0), at(16))]


def test_a_base_backup_is_usable_once_the_wal_written_during_it_is_there() -> None:
    assert kept(base(1, 5), wal(1, 1, 4)).usable() == []
    assert [span.base for span in kept(base(1, 5), wal(1, 1, 4), wal(2, 2, 5.1)).usable()] == [base(1, 5)]


@pytest.mark.parametrize(("minutes", "nearest"), [(-60, 0), (60, 30), (10, 8), (19, 20)])
def test_a_time_outside_is_refused_and_the_nearest_is_named(minutes: float, nearest: float) -> None:
    state = kept(base(1, 0), wal(1, 2, 8), wal(5, 5, 18), base(6, 20), wal(6, 7, 30))
    with pytest.raises(BackupError) as refused:
        state.plan(at(minutes))
    assert f"the nearest that can: {shown(at(nearest))}. " in str(refused.value)
    assert f"Kept: {shown(at(0))} to {shown(at(8))}, {shown(at(20))} to {shown(at(30))}" in str(refused.value)


def test_nothing_can_be_restored_without_a_base_backup() -> None:
    with pytest.raises(BackupError, match="there is no base backup with its WAL"):
        kept(wal(1, 1, 4)).plan(at(2))


def test_a_hole_ends_what_can_be_restored_and_is_reported() -> None:
    state = kept(base(1, 0), wal(1, 2, 4), wal(4, 4, 12))
    assert [str(hole) for hole in state.holes()] == [
        f"1 WAL segments are missing between {wal(1, 2, 4).name} and {wal(4, 4, 12).name}"
    ]
    assert state.continued(MINE) is None
    assert state.usable()[0].end == at(4)
    assert kept(base(1, 0), wal(1, 2, 4), wal(4, 4, 12), base(4, 13)).continued(MINE) == base(4, 13)


def test_files_that_overlap_after_a_kill_are_no_hole() -> None:
    """A call that was killed before it could tell Postgres is followed by one that may ship the same again."""
    state = kept(base(1, 0), wal(1, 1, 4), wal(2, 3, 8), wal(2, 5, 12), wal(3, 3, 9), wal(6, 6, 16))
    assert state.holes() == []
    assert state.plan(at(15)).until(at(15))[-1] == wal(6, 6, 16).name
    assert state.continued(MINE) == base(1, 0)


def test_another_postgres_has_a_history_of_its_own() -> None:
    state = kept(base(1, 0), wal(1, 2, 8), base(1, 20, OTHER), wal(1, 1, 30, OTHER))
    assert state.holes() == []
    assert state.plan(at(25)).base.history == OTHER
    assert state.plan(at(5)).base.history == MINE
    assert (state.continued(OTHER), state.newest("1-1")) == (base(1, 20, OTHER), None)
    assert kept(base(1, 0), wal(1, 2, 8)).continued(OTHER) is None


def test_what_no_restore_needs_any_more_may_be_deleted() -> None:
    day = 24 * 60
    old, anchor, new = base(1, 0), base(10, 2 * day), base(20, 3 * day)
    files = [wal(1, 5, 60), wal(6, 9, 2 * day - 1), wal(9, 10, 2 * day + 1), wal(11, 30, 9.5 * day)]
    state = kept(old, anchor, new, *files)
    assert state.outdated(7, at(9.5 * day)) == [old.name, files[0].name, files[1].name]
    assert state.outdated(7, at(8 * day)) == []
    assert state.outdated(0, at(90 * day)) == []
    assert new.name not in state.outdated(7, at(90 * day)), "never the newest"


def test_a_base_backup_that_cannot_be_used_replaces_none() -> None:
    day = 24 * 60
    old, broken = base(1, 0), base(20, 2 * day)
    state = kept(old, wal(1, 5, day), broken, wal(30, 31, 3 * day))
    assert state.outdated(7, at(30 * day)) == []


def test_wal_of_a_postgres_that_is_gone_goes_with_its_base_backups() -> None:
    day = 24 * 60
    gone, present = base(1, 0, OTHER), base(1, day)
    state = kept(gone, wal(1, 9, day, OTHER), present, wal(1, 90, 20 * day))
    assert set(state.outdated(7, at(20 * day))) == {gone.name, wal(1, 9, day, OTHER).name}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T12:05:00Z", at(5)),
        ("2026-03-01 12:05", at(5)),
        ("2026-03-01T13:05:00.5+01:00", at(5) + timedelta(seconds=0.5)),
        ("latest", at(8)),
    ],
)
def test_times_as_they_are_given(text: str, expected: datetime) -> None:
    time = time_given(text, kept(base(1, 0), wal(1, 1, 8)))
    assert time == expected
    assert time_given(shown(time), kept()) == time


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(BackupError, match="TIME=monday is no time; such as TIME="):
        time_given("monday", kept())
