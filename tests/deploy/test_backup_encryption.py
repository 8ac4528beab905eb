"""The encryption of a backup: what was not written so, by a holder of the key, is refused and not opened."""

from __future__ import annotations

import contextlib
import io
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import backup_encryption
from deploy.backup_encryption import BLOCK, HEADER, TAG, DamagedBackupError, authenticate, decrypting, encrypting
from deploy.backup_file import SavedBackup
from deploy.errors import DeployError

KEY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
SEALED = BLOCK + TAG
SIZES = [0, 1, 5000, BLOCK - 17, BLOCK - 16, BLOCK - 15, 3 * BLOCK - 16, 3 * BLOCK + 100]  # openssl adds 16 bytes


def content_of(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def encrypted(path: Path, content: bytes, key: str = KEY) -> Path:
    with path.open("wb") as file, encrypting(file, key) as stream:
        stream.write(content)
    return path


def decrypted(path: Path, *keys: str) -> bytes:
    with decrypting(path, authenticate(path, keys)) as stream:
        return stream.read()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four blocks, the last one short."""
    return encrypted(tmp_path / "file", content_of(3 * BLOCK + 100))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_comes_back(tmp_path: Path, size: int) -> None:
    assert decrypted(encrypted(tmp_path / "file", content_of(size)), KEY) == content_of(size)


def test_two_files_have_nothing_in_common(tmp_path: Path) -> None:
    one, other = (encrypted(tmp_path / name, content_of(9000)).read_bytes() for name in "ab")
    start = HEADER + len("Salted__")  # openssl's
    assert one[len(backup_encryption.MAGIC) : HEADER] != other[len(backup_encryption.MAGIC) : HEADER]
    assert not [place for place in range(start, len(one) - 8) if one[place : place + 8] == other[place : place + 8]]


def test_an_earlier_key_opens_it_too(path: Path) -> None:
    assert decrypted(path, OTHER, KEY) == content_of(3 * BLOCK + 100)


def test_another_key_opens_nothing(path: Path) -> None:
    with pytest.raises(DamagedBackupError, match=r"no key in BACKUP_KEY of .env made it, .* BACKUP_KEY=NEW,OLD"):
        authenticate(path, [OTHER])


TAMPERED: dict[str, Callable[[bytes], bytes]] = {
    "salt": lambda c: c[: HEADER - TAG - 1] + bytes([c[HEADER - TAG - 1] ^ 1]) + c[HEADER - TAG :],
    "header's tag": lambda c: c[: HEADER - 1] + bytes([c[HEADER - 1] ^ 1]) + c[HEADER:],
    "first byte": lambda c: c[:HEADER] + bytes([c[HEADER] ^ 1]) + c[HEADER + 1 :],
    "byte in the middle": lambda c: (
        c[: HEADER + SEALED + 7] + bytes([c[HEADER + SEALED + 7] ^ 1]) + c[HEADER + SEALED + 8 :]
    ),
    "tag": lambda c: c[: HEADER + SEALED - 1] + bytes([c[HEADER + SEALED - 1] ^ 1]) + c[HEADER + SEALED :],
    "last byte": lambda c: c[:-1] + bytes([c[-1] ^ 1]),
    "two blocks exchanged": lambda c: (
        c[:HEADER] + c[HEADER + SEALED : HEADER + 2 * SEALED] + c[HEADER : HEADER + SEALED] + c[HEADER + 2 * SEALED :]
    ),
    "a block twice": lambda c: c[: HEADER + SEALED] + c[HEADER:],
    "a block left out": lambda c: c[: HEADER + SEALED] + c[HEADER + 2 * SEALED :],
    "cut between two blocks": lambda c: c[: HEADER + 2 * SEALED],
    "cut in a block": lambda c: c[: HEADER + 2 * SEALED + 1000],
    "cut in a tag": lambda c: c[:-3],
    "cut after the header": lambda c: c[:HEADER],
    "cut in the header": lambda c: c[: HEADER - 1],
    "something appended": lambda c: c + b"more",
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_tampered_with_is_refused_and_not_opened(
    path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(TAMPERED[how](path.read_bytes()))
    monkeypatch.setattr("subprocess.Popen", None)  # would decrypt
    monkeypatch.setattr("tarfile.open", None)
    with pytest.raises(DamagedBackupError):
        SavedBackup(path, [KEY])


def test_a_block_of_another_file_of_the_same_key_is_refused(path: Path, tmp_path: Path) -> None:
    other = encrypted(tmp_path / "other", content_of(3 * BLOCK + 100)).read_bytes()
    path.write_bytes(path.read_bytes()[: HEADER + SEALED] + other[HEADER + SEALED :])
    with pytest.raises(DamagedBackupError, match="block 2 of it is not what was written"):
        authenticate(path, [KEY])


def test_a_file_that_changes_after_it_was_authenticated_gives_nothing_of_the_change(path: Path) -> None:
    key = authenticate(path, [KEY])
    path.write_bytes(TAMPERED["two blocks exchanged"](path.read_bytes()))
    read = io.BytesIO()
    with pytest.raises(DamagedBackupError), decrypting(path, key) as stream:
        read.write(stream.read())
    assert read.getvalue() == b""


def test_who_reads_only_the_beginning_waits_for_no_more(path: Path) -> None:
    began = time.monotonic()
    with contextlib.suppress(KeyError), decrypting(path, authenticate(path, [KEY])) as stream:
        assert stream.read(100) == content_of(100)
        raise KeyError
    assert time.monotonic() - began < 60


def test_a_full_disk_is_the_error_and_not_what_follows_from_it() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        encrypted(Path("/dev/full"), content_of(4 * BLOCK))


DIRECTIONS = pytest.mark.parametrize(
    "work", [lambda path: encrypted(path, content_of(4 * BLOCK)), lambda path: decrypted(path, KEY)]
)


@DIRECTIONS
def test_an_openssl_that_fails_is_an_error(
    path: Path, work: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_encryption, "OPENSSL", ("sh", "-c", "echo no such cipher >&2; exit 1"))
    with pytest.raises(DeployError, match="openssl: no such cipher"):
        work(path)


@DIRECTIONS
def test_an_openssl_that_is_killed_is_an_error(
    path: Path, work: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_encryption, "OPENSSL", ("sh", "-c", "head -c 100; kill -9 $$"))
    with pytest.raises(DeployError, match="openssl: it failed"):
        work(path)


def test_without_openssl_it_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_encryption, "OPENSSL", ("no-openssl-here",))
    with pytest.raises(DeployError, match="openssl is not installed"):
        encrypted(path, b"")


def test_the_password_is_in_no_list_of_processes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    start = subprocess.Popen

    def noted(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        started.append(command)
        return start(command, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("subprocess.Popen", noted)
    decrypted(path, KEY)
    [command] = started
    assert max(map(len, command)) < 16
