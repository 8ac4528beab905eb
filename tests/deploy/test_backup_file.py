"""The backup file: whole and unchanged, or refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from deploy import backup_file
from deploy.__main__ import main
from deploy.backup_file import DamagedBackupError

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
    file = tmp_path / "saved.tar"
    with backup_file.create(file) as writer:
        writer.add("databases/mlflow.dump", io.BytesIO(DUMP), len(DUMP))
        writer.add_tar("bucket/", tar_of(OBJECTS))
    return file


def test_everything_comes_back(path: Path) -> None:
    assert set(backup_file.verify(path)) == {"databases/mlflow.dump", *(f"bucket/{key}" for key in OBJECTS)}
    assert {info.name: content.read() for info, content in backup_file.members(path, "bucket/")} == OBJECTS


def test_only_the_owner_reads_it(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_bucket_is_a_backup_too(tmp_path: Path) -> None:
    with backup_file.create(tmp_path / "saved.tar") as writer:
        writer.add_tar("bucket/", tar_of({}))
    assert backup_file.verify(tmp_path / "saved.tar") == {}


def test_a_changed_byte_of_any_header_or_content_is_found(path: Path) -> None:
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        places = [info.offset + 10 for info in archive] + [info.offset_data for info in archive if info.size]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(DamagedBackupError):
            backup_file.verify(path)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.7])
def test_a_file_that_was_cut_short_is_found(path: Path, part: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(DamagedBackupError):
        backup_file.verify(path)


def test_a_failed_backup_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no answer"), backup_file.create(tmp_path / "saved.tar"):
        raise RuntimeError("no answer")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_is_never_written_over(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError), backup_file.create(path):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(("content", "code"), [(None, 66), (b"", 65), (b"no tar at all" * 100, 65)])
def test_a_restore_names_a_wrong_file_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, code: int
) -> None:
    path = tmp_path / "wrong.tar"
    if content is not None:
        path.write_bytes(content)
    assert main(["restore", "--file", str(path)]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
