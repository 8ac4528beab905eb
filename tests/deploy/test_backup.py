"""The flow of a backup: a stream that breaks off on its way, on whatever stack, is no backup."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from deploy import backup, backup_file
from deploy.backup_encryption import BLOCK, HEADER, TAG
from deploy.backup_file import SavedBackup
from deploy.backup_stack import SUPERUSER, BackupError, Stack

KEY = "0123456789abcdef" * 4

# A client of the bucket that writes, or reads, two objects and says how many there were.
CLIENT = """
import io, sys, tarfile
if sys.argv[1] == "count":
    print(0)
elif sys.argv[1] == "save":
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for name in "ab":
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"xyz"))
else:
    sys.stdin.buffer.read()
"""


class Pretended(Stack):
    """A stack whose streams may be cut."""

    save_target, restore_target = "make backup", "make restore"

    def __init__(self, *, told: str = "2 objects", cut: int = 0) -> None:
        self._told, self._cut = told, cut
        self.statements: list[str] = []
        self.loaded: list[tuple[str, str]] = []  # user, command

    def require_running(self) -> None:
        return

    def postgres(
        self, command: str, *, user: str = SUPERUSER, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        if stdout is not None:
            dump = b"PGDMP" * 100 + backup.END
            stdout.write(dump[: len(dump) - self._cut])
        if command.startswith("psql") and stdin is not None:
            self.statements.append(stdin.read().decode())
        if command.startswith("pg_restore"):
            self.loaded.append((user, command.split()[-1]))
        return "f"

    def bucket(self, action: str) -> list[str]:
        return [sys.executable, "-c", f"{CLIENT}\nprint({self._told!r}, file=sys.stderr)", action]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.statements.append("stopped")
        yield
        self.statements.append("started")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved.tar"
    backup.save(Pretended(), path, KEY)
    return path


def test_dumps_and_objects_are_in_the_file_without_what_marks_their_ends(saved: Path) -> None:
    members = SavedBackup(saved, [KEY]).verify()
    assert set(members) == {*(f"databases/{name}.dump" for name in backup.DATABASES), "bucket/a", "bucket/b"}
    assert members["databases/mlflow.dump"]["bytes"] == 500


@pytest.mark.parametrize("cut", [1, len(backup.END), 400, 500 + len(backup.END)])
def test_a_dump_that_broke_off_leaves_no_file(tmp_path: Path, cut: int) -> None:
    with pytest.raises(BackupError, match="the dump of database airflow was cut off; run it again"):
        backup.save(Pretended(cut=cut), tmp_path / "saved.tar", KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("told", ["", "3 objects", "2 objects less"])
def test_a_bucket_that_broke_off_between_two_objects_leaves_no_file(tmp_path: Path, told: str) -> None:
    with pytest.raises(BackupError, match="2 objects came through, and the bucket's client says"):
        backup.save(Pretended(told=told), tmp_path / "saved.tar", KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_restore_puts_in_place_what_came_through_whole_and_nothing_else(saved: Path) -> None:
    whole, cut = Pretended(), Pretended(told="1 objects")
    assert "3 databases and 2 objects restored" in backup.restore(whole, saved, [KEY], force=False)
    assert whole.statements.index("stopped") < whole.statements.index("started")
    assert any("RENAME TO mlflow;" in statement for statement in whole.statements)
    assert whole.loaded == [(name, f"{name}_restored") for name in backup.DATABASES], "each as its own user"
    with pytest.raises(BackupError, match="the bucket's client says 1 objects"):
        backup.restore(cut, saved, [KEY], force=False)
    assert "stopped" not in cut.statements
    assert not any("RENAME" in statement for statement in cut.statements)
    assert "DROP DATABASE IF EXISTS mlflow_restored" in cut.statements[-1]


def test_a_file_that_is_exchanged_after_it_was_authenticated_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, stack = tmp_path / "saved.tar", Pretended()
    with backup_file.create(saved, KEY) as writer:
        for name in backup.DATABASES:
            writer.add(f"databases/{name}.dump", io.BytesIO(bytes(BLOCK)), BLOCK)
    content = bytearray(saved.read_bytes())
    content[HEADER + 2 * (BLOCK + TAG) + 10] ^= 1
    monkeypatch.setattr(stack, "require_running", lambda: saved.write_bytes(content))
    with pytest.raises(BackupError, match=r"block 3 of it is not what was written: .*; nothing was changed"):
        backup.restore(stack, saved, [KEY], force=False)
    assert [user for user, _ in stack.loaded] == ["airflow"], "what comes before the change"
    assert "stopped" not in stack.statements


def test_the_client_of_the_bucket_says_how_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket = pytest.importorskip("deploy.bucket")
    uploaded: list[str] = []

    class Client:
        def upload_fileobj(self, content: IO[bytes], name: str, key: str) -> None:
            content.read()
            uploaded.append(key)

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for name in ("a", "b/c"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    stream.seek(0)
    assert bucket.load(Client(), "mlflow", stream) == 2
    assert uploaded == ["a", "b/c"]
