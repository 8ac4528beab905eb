"""Encrypts a backup with the stack's key, and authenticates it before any of it is decrypted.

    header    the line "vision-mlops encrypted backup 1", 16 bytes of salt, the header's tag
    blocks    1 MiB of ciphertext (the last one has less, or as much), and its tag of 32 bytes

The ciphertext is what `openssl enc -aes-256-ctr -pbkdf2` writes; a tag is an HMAC-SHA256. Both have keys of their own,
derived from BACKUP_KEY and the salt. A block's tag also covers its number, and whether it is the last one: a block that
was changed, moved, repeated, taken from another file or left out has a wrong tag, and so has what a truncated file ends
with. Standard library and the openssl command only.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deploy.errors import CONFIG, DeployError

MAGIC = b"vision-mlops encrypted backup 1\n"
SALT, TAG, BLOCK = 16, 32, 1 << 20  # bytes
HEADER = len(MAGIC) + SALT + TAG
VARIABLE = "BACKUP_KEY"
SHORTEST_KEY = 32  # characters; `make setup` writes 64
OPENSSL = ("openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-md", "sha256")


class DamagedBackupError(Exception):
    """The file is not a backup of this stack, or was changed since it was written; the text names what is wrong."""


def keys(values: Mapping[str, str]) -> list[str]:
    """Return the keys in BACKUP_KEY of `.env`: the one that encrypts, then earlier ones, which only decrypt.

    Raises:
        DeployError: there is none, or one is so short that it could be guessed.
    """
    found = [key.strip() for key in values.get(VARIABLE, "").split(",") if key.strip()]
    if not found:
        raise DeployError(f"{VARIABLE} is missing in .env; run make setup, and keep a copy of .env elsewhere", CONFIG)
    if min(map(len, found)) < SHORTEST_KEY:
        raise DeployError(f"{VARIABLE}: a key has less than {SHORTEST_KEY} characters; openssl rand -hex 32", CONFIG)
    return found


class _Keys:
    """What is derived from one key for one file."""

    def __init__(self, key: str, salt: bytes) -> None:
        def derived(use: bytes) -> bytes:
            return hmac.digest(key.encode(), use + salt, "sha256")

        self.password = derived(b"encrypt").hex()
        self._authentication = derived(b"authenticate")
        start = MAGIC + salt
        self.header = start + hmac.digest(self._authentication, start, "sha256")

    def tag(self, number: int, last: bool, block: bytes) -> bytes:
        """Return the tag of a block."""
        place = number.to_bytes(8, "big") + bytes([last])
        return hmac.digest(self._authentication, place + block, "sha256")


def is_encrypted(path: Path) -> bool:
    """Tell whether a file says that it is an encrypted backup."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextmanager
def encrypting(target: IO[bytes], key: str) -> Iterator[IO[bytes]]:
    """Yield a stream; what is written to it arrives in `target`, encrypted and with tags.

    Raises:
        DeployError: openssl is not installed or failed.
        OSError: `target` cannot be written.
    """
    derived = _Keys(key, secrets.token_bytes(SALT))
    target.write(derived.header)
    process = _openssl("-e", derived.password)

    def seal(_: IO[bytes], output: IO[bytes]) -> None:
        for number, (block, last) in enumerate(_with_last(iter(lambda: output.read(BLOCK), b""))):
            target.write(block + derived.tag(number, last, block))

    with _beside(process, seal) as (stream, _):
        yield stream
        stream.close()


def authenticate(path: Path, known: Sequence[str]) -> str:
    """Read the whole file, compare every tag, and return the key that made it; nothing is decrypted.

    Raises:
        DamagedBackupError: no key made it, or it was changed or truncated.
    """
    with path.open("rb") as file:
        header = file.read(HEADER)
        key = _key_of(header, known)
        for _ in _authenticated(file, _Keys(key, header[len(MAGIC) :][:SALT])):
            pass
    return key


@contextmanager
def decrypting(path: Path, key: str) -> Iterator[IO[bytes]]:
    """Yield the decrypted content as a stream, in which each block was authenticated before it was decrypted.

    Call `authenticate` first: only at the end of the file is it known that the file is whole.

    Raises:
        DamagedBackupError: it was changed or truncated.
        DeployError: openssl is not installed or failed.
    """
    with path.open("rb") as file:
        header = file.read(HEADER)
        derived = _Keys(_key_of(header, [key]), header[len(MAGIC) :][:SALT])

        def feed(into: IO[bytes], _: IO[bytes]) -> None:
            for block in _authenticated(file, derived):
                into.write(block)
            into.close()

        with _beside(_openssl("-d", derived.password), feed) as (_, stream):
            yield stream
            while stream.read(BLOCK):
                pass


def _key_of(header: bytes, known: Sequence[str]) -> str:
    if len(header) == HEADER and header.startswith(MAGIC):
        for key in known:
            if hmac.compare_digest(_Keys(key, header[len(MAGIC) :][:SALT]).header, header):
                return key
    raise DamagedBackupError(
        f"no key in {VARIABLE} of .env made it, or its start was changed; an earlier key goes after the present one: "
        f"{VARIABLE}=NEW,OLD"
    )


def _authenticated(file: IO[bytes], derived: _Keys) -> Iterator[bytes]:
    """Yield the ciphertext block by block, each after its tag was found right."""
    number = -1
    for number, (sealed, last) in enumerate(_with_last(iter(lambda: file.read(BLOCK + TAG), b""))):
        block, tag = sealed[:-TAG], sealed[-TAG:]
        if not hmac.compare_digest(derived.tag(number, last, block), tag):
            raise DamagedBackupError(f"block {number + 1} of it is not what was written: changed, moved or truncated")
        yield block
    if number < 0:
        raise DamagedBackupError("it was truncated: nothing follows its header")


def _with_last(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each block, and whether it is the last one."""
    held = next(blocks, None)
    for block in blocks:
        if held is not None:
            yield held, False
        held = block
    if held is not None:
        yield held, True


def _openssl(direction: str, password: str) -> subprocess.Popen[bytes]:
    """Start openssl; the password goes through a pipe, since other users see the arguments and root the environment."""
    reading, writing = os.pipe()
    try:
        os.write(writing, password.encode() + b"\n")
        os.close(writing)
        return subprocess.Popen(  # noqa: S603  # arguments of ours
            [*OPENSSL, direction, "-pass", f"fd:{reading}"], pass_fds=(reading,),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError:
        raise DeployError("openssl is not installed; install it, version 1.1.1 or later") from None
    finally:
        os.close(reading)


@contextmanager
def _beside(
    process: subprocess.Popen[bytes], work: Callable[[IO[bytes], IO[bytes]], None]
) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Do the work on one end of a program in a thread, while the block uses the other; yield its input and output.

    An error of the work ends the program, and is raised instead of what the block noticed of that.
    """
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
    into, output = process.stdin, process.stdout
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work(into, output)
        except BrokenPipeError:
            pass  # the program ended first, by itself or because the block needs no more
        except BaseException as error:
            errors.append(error)
            process.kill()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    noticed: BaseException | None = None
    killed = False
    try:
        yield into, output
    except BaseException as error:
        noticed = error
        if isinstance(error, BrokenPipeError):  # most likely the program's
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        if process.poll() is None:
            killed = True
            process.kill()
    thread.join()
    with contextlib.suppress(BrokenPipeError):
        into.close()
    output.close()
    words = process.stderr.read().decode(errors="replace").strip().splitlines()
    process.stderr.close()
    code = process.wait()
    if errors:
        raise errors[0] from None
    if code > 0 or (code and not killed):
        raise DeployError(f"openssl: {(words or ['it failed'])[-1]}") from None
    if noticed is not None:
        raise noticed
