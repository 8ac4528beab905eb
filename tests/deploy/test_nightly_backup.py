"""The nightly backup: what it keeps, deletes and reports; that nothing is deleted when a step before has failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy import backup_encryption, nightly_backup
from deploy.backup_places import Folder, new_name, place_of, time_of
from deploy.backup_stack import BackupError, ComposeStack
from deploy.env_file import ROOT

from .test_backup import KEY, Pretended

STORE = {
    "BACKUP_BUCKET": "kept",
    "BACKUP_S3_ENDPOINT_URL": "https://s3.elsewhere.example",
    "BACKUP_S3_ACCESS_KEY": "user",
    "BACKUP_S3_SECRET_KEY": "of-the-user",
}
NOW = datetime(2026, 3, 31, 2, tzinfo=UTC)


def name(days: float) -> str:
    """The name of a backup so many days old."""
    return f"vision-mlops-{NOW - timedelta(days=days):%Y%m%dT%H%M%SZ}.backup"


class OnOneMachine(Pretended, ComposeStack):
    """A stack whose backup goes into a folder."""


@pytest.fixture
def values(tmp_path: Path) -> dict[str, str]:
    return {"BACKUP_KEY": KEY, "BACKUP_FOLDER": str(tmp_path / "kept")}


@pytest.fixture
def old(tmp_path: Path) -> list[Path]:
    """A backup of long ago, and files that are none."""
    (tmp_path / "kept").mkdir()
    files = [tmp_path / "kept" / one for one in (name(400), "monday.backup", "vision-mlops-before.backup.copy")]
    for file in files:
        file.write_bytes(b"old")
    return files


def test_a_name_says_when_it_began() -> None:
    assert abs(time_of(new_name()) - datetime.now(UTC)) < timedelta(minutes=5)


def test_what_is_too_old_is_deleted_but_never_the_newest() -> None:
    backups = [name(days) for days in (40, 0.5, 30.1, 29.9, 12)]
    assert nightly_backup.outdated(backups, 30, NOW) == [name(30.1), name(40)]
    assert nightly_backup.outdated([name(300), name(200)], 30, NOW) == [name(300)]
    assert nightly_backup.outdated([name(300)], 30, NOW) == []
    assert nightly_backup.outdated(backups, 0, NOW) == []


def test_a_backup_is_kept_old_ones_go_and_prometheus_is_told(
    values: dict[str, str], old: list[Path], tmp_path: Path
) -> None:
    metrics = tmp_path / "backup.prom"
    said = nightly_backup.run(OnOneMachine(), values, metrics)
    [kept] = Folder(tmp_path / "kept").backups()
    assert backup_encryption.authenticate(tmp_path / "kept" / kept, [KEY]) == KEY
    assert [file.exists() for file in old] == [False, True, True]
    assert said[-1] == f"deleted, as older than 30 days: {old[0].name}"
    size = (tmp_path / "kept" / kept).stat().st_size
    lines = [line for line in metrics.read_text().splitlines() if not line.startswith("#")]
    assert lines == [
        f"backup_last_success_timestamp_seconds {time_of(kept).timestamp():.0f}",
        f"backup_last_size_bytes {size}",
    ]
    assert metrics.stat().st_mode & 0o777 == 0o644
    assert nightly_backup.fetch(OnOneMachine(), values, None) == tmp_path / "kept" / kept


def test_a_backup_that_fails_deletes_nothing_and_is_not_reported(
    values: dict[str, str], old: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(BackupError, match="cut off"):
        nightly_backup.run(OnOneMachine(cut=1), values, tmp_path / "backup.prom")
    assert all(file.exists() for file in old)
    assert not (tmp_path / "backup.prom").exists()
    assert {file.name for file in (tmp_path / "kept").iterdir()} == {file.name for file in old}


def test_a_backup_that_cannot_be_brought_there_stays_here(
    values: dict[str, str], old: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Folder, file: Path) -> str:
        raise BackupError("the store is full")

    monkeypatch.setattr(Folder, "put", full)
    with pytest.raises(BackupError, match="the store is full; the backup stays at ") as error:
        nightly_backup.run(OnOneMachine(), values, tmp_path / "backup.prom")
    assert backup_encryption.authenticate(Path(str(error.value).split()[-1]), [KEY]) == KEY
    assert all(file.exists() for file in old)
    assert not (tmp_path / "backup.prom").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"BACKUP_KEEP_DAYS": "a month"}, "BACKUP_KEEP_DAYS=a month is not a number of days"),
        ({"BACKUP_FOLDER": "kept"}, "BACKUP_FOLDER=kept is not an absolute path"),
        ({"BACKUP_FOLDER": "/dev/null/kept"}, "BACKUP_FOLDER=/dev/null/kept: Not a directory; name a folder"),
        (STORE | {"BACKUP_S3_ACCESS_KEY": ""}, "BACKUP_BUCKET is set in .env, and BACKUP_S3_ACCESS_KEY not"),
        (
            STORE | {"BACKUP_S3_ENDPOINT_URL": "http://s3:9000", "BACKUP_BUCKET": "mlflow"},
            "BACKUP_BUCKET is the bucket that is to be saved",
        ),
    ],
)
def test_a_wrong_setting_is_an_error_before_anything_is_done(
    values: dict[str, str], changed: dict[str, str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BackupError, match=says) as error:
        nightly_backup.run(OnOneMachine(), values | changed, tmp_path / "backup.prom")
    assert error.value.code == 78
    assert list(tmp_path.glob("**/*.*")) == []


def test_a_backup_that_is_not_there_is_named(values: dict[str, str]) -> None:
    with pytest.raises(BackupError, match="no backup monday; there are: none"):
        nightly_backup.fetch(OnOneMachine(), values, "monday")


def test_the_key_of_the_store_is_in_no_list_of_processes(values: dict[str, str]) -> None:
    place = place_of(values | STORE, ComposeStack(ROOT / ".env.example"))
    command = place._stack.program(ROOT / "README.md", "names", variables=STORE)  # type: ignore[union-attr]
    assert "BACKUP_S3_SECRET_KEY" in command
    assert not [word for word in command if "of-the-user" in word]
