"""The backup file: whole and unchanged, or refused; files of the release before are told from it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from deploy import backup_file
from deploy.__main__ import main
from deploy.backup_encryption import DamagedBackupError
from deploy.backup_file import BackupWriter, SavedBackup

KEY = "0123456789abcdef" * 4
DUMP = b"dump of a database " * 100
OBJECTS = {"1/run/artifacts/model.bin": bytes(range(256)) * 40, "1/run/artifacts/note, ünïcode.txt": b"", "empty": b""}


def tar_of(objects: dict[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for name, content in objects.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    stream.seek(0)
    return stream


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "saved.backup"
    with backup_file.create(file, KEY) as writer:
        writer.add("databases/mlflow.dump", io.BytesIO(DUMP), len(DUMP))
        writer.add_tar("bucket/", tar_of(OBJECTS))
    return file


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file as the release before wrote it: without encryption."""
    file = tmp_path / "saved.tar"
    with tarfile.open(file, mode="w") as archive:
        writer = BackupWriter(archive)
        writer.add("databases/mlflow.dump", io.BytesIO(DUMP), len(DUMP))
        writer.add_tar("bucket/", tar_of(OBJECTS))
        writer.finish()
    return file


def test_everything_comes_back(path: Path) -> None:
    saved = SavedBackup(path, [KEY])
    assert set(saved.verify()) == {"databases/mlflow.dump", *(f"bucket/{key}" for key in OBJECTS)}
    with saved.members("bucket/") as members:
        assert {info.name: content.read() for info, content in members} == OBJECTS


def test_one_member_is_read_without_the_rest(path: Path) -> None:
    found = io.BytesIO()
    SavedBackup(path, [KEY]).extract("databases/mlflow.dump", found)
    assert found.getvalue() == DUMP
    with pytest.raises(DamagedBackupError, match=r"it has no databases/airflow\.dump"):
        SavedBackup(path, [KEY]).extract("databases/airflow.dump", found)


def test_nothing_of_it_can_be_read_in_the_file(path: Path) -> None:
    content = path.read_bytes()
    assert not [word for word in (DUMP[:16], b"mlflow.dump", b"manifest", bytes(range(32))) if word in content]


def test_a_file_of_the_release_before_is_opened_only_on_request(plain: Path) -> None:
    with pytest.raises(DamagedBackupError, match=r"not encrypted, so anybody can have written it; .* PLAIN=1 restores"):
        SavedBackup(plain, [KEY])
    saved = SavedBackup(plain, [KEY], plain=True)
    assert set(saved.verify()) == {"databases/mlflow.dump", *(f"bucket/{key}" for key in OBJECTS)}
    with saved.members("bucket/") as members:
        assert {info.name: content.read() for info, content in members} == OBJECTS


def test_only_the_owner_reads_it(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_bucket_is_a_backup_too(tmp_path: Path) -> None:
    with backup_file.create(tmp_path / "saved.backup", KEY) as writer:
        writer.add_tar("bucket/", tar_of({}))
    assert SavedBackup(tmp_path / "saved.backup", [KEY]).verify() == {}


def test_a_changed_byte_of_any_header_or_content_of_a_plain_file_is_found(plain: Path) -> None:
    whole = plain.read_bytes()
    with tarfile.open(plain) as archive:
        places = [info.offset + 10 for info in archive] + [info.offset_data for info in archive if info.size]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1
        plain.write_bytes(changed)
        with pytest.raises(DamagedBackupError):
            SavedBackup(plain, [KEY], plain=True).verify()


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.7])
def test_a_plain_file_that_was_cut_short_is_found(plain: Path, part: float) -> None:
    whole = plain.read_bytes()
    plain.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(DamagedBackupError):
        SavedBackup(plain, [KEY], plain=True).verify()


def test_a_failed_backup_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no answer"), backup_file.create(tmp_path / "saved.backup", KEY):
        raise RuntimeError("no answer")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_is_never_written_over(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError), backup_file.create(path, KEY):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(("content", "code"), [(None, 66), (b"", 65), (b"no tar at all" * 100, 65)])
def test_a_restore_names_a_wrong_file_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, code: int
) -> None:
    path, env_file = tmp_path / "wrong.tar", tmp_path / ".env"
    env_file.write_text(f"BACKUP_KEY={KEY}\n")
    if content is not None:
        path.write_bytes(content)
    assert main(["restore", "--file", str(path), "--env-file", str(env_file)]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error


@pytest.mark.parametrize(
    ("value", "says"), [("", "BACKUP_KEY is missing in .env; run make setup"), ("secret", "32 char")]
)
def test_without_a_good_key_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, says: str
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"BACKUP_KEY={value}\n")
    assert main(["backup", "--file", str(tmp_path / "saved.backup"), "--env-file", str(env_file)]) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert list(tmp_path.iterdir()) == [env_file]


def test_a_person_can_look_inside(path: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"BACKUP_KEY={KEY[::-1]},{KEY}\n")
    assert main(["decrypt-backup", "--file", str(path), "--env-file", str(env_file)]) == 0
    with tarfile.open(fileobj=io.BytesIO(capfdbinary.readouterr().out)) as archive:
        assert {"databases/mlflow.dump", "bucket/empty", "manifest.json"} <= set(archive.getnames())
