"""A folder with the shards that are in use: bounded, filled ahead of the reader, the longest unused go first."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tasks.errors import ChangedError, UnavailableError
from tasks.files import sha256
from tasks.vision.data.gold import damaged
from tasks.vision.memory import available_memory

DOWNLOADS, DOWNLOAD_SHARE = 4, 2**30  # at the same time, at most; one for so many bytes of memory that are left

Fetch = Callable[[str, Path], Path]
"""Puts the file of a name into a folder, and returns its path."""


@dataclass(frozen=True)
class Stored:
    """A shard as its description has it: bytes and SHA-256."""

    size: int
    sha256: str


@dataclass
class _Held:
    """A shard in the folder, or on its way there; `readers` have its file open."""

    fetched: Future[Path]
    readers: int = 0


class ShardCache:
    """Opens shards, which it fetches and checks first. Threads may share it."""

    def __init__(self, fetch: Fetch, stored: Mapping[str, Stored], most_bytes: int, where: str, fix: str) -> None:
        """Make the folder; nothing is fetched yet.

        Args:
            fetch: gets a shard from where gold is stored.
            stored: all shards there are.
            most_bytes: that the folder may hold; one shard is held in any case.
            where: names the gold in errors.
            fix: what to do if it was changed, for errors.
        """
        self._fetch, self._stored, self._most, self._where, self._fix = fetch, stored, most_bytes, where, fix
        self._folder = Path(tempfile.mkdtemp(prefix="shards-"))
        self._held: OrderedDict[str, _Held] = OrderedDict()  # the longest unused first
        self._wanted: dict[str, int] = {}  # shards that are expected to be read, with their place in the order
        self._bytes = 0
        self._changed = threading.Condition()
        downloads = max(1, min(DOWNLOADS, (available_memory() or DOWNLOADS * DOWNLOAD_SHARE) // DOWNLOAD_SHARE))
        self._pool = ThreadPoolExecutor(downloads, thread_name_prefix="shards")
        self._close = weakref.finalize(self, _remove, self._folder, self._pool, self._changed)

    def close(self) -> None:
        """Remove the folder; also done when nothing refers to the cache any more."""
        self._close()

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Open a shard for reading at any offset; it stays while the block runs.

        Only so long: a disk holds more shards than a process may have files open.

        Raises:
            ChangedError: it is not what was stored.
        """
        with self._changed:
            held = self._begin(name)
            held.readers += 1
        try:
            file = os.open(held.fetched.result(), os.O_RDONLY)
            try:
                yield file
            finally:
                os.close(file)
        finally:
            with self._changed:
                held.readers -= 1
                if held.fetched.done() and held.fetched.exception() is not None and self._held.get(name) is held:
                    self._drop(name)  # the next reader tries again
                self._changed.notify_all()

    def expect(self, names: Iterable[str]) -> None:
        """Fetch shards that will be read, in this order, as far as there is room; others make room for them."""
        with self._changed:
            self._wanted = {name: place for place, name in enumerate(names)}
            for name in self._wanted:
                while name not in self._held and self._bytes + self._stored[name].size > self._most:
                    idle = self._idle()
                    if idle is None or idle in self._wanted:
                        return
                    self._drop(idle)
                self._begin(name)

    def _begin(self, name: str) -> _Held:
        """Return a shard of the folder, and have it fetched if it is not there; called with the lock."""
        held = self._held.get(name)
        while held is None:
            size = self._stored[name].size
            if not self._held or self._bytes + size <= self._most:
                held = self._held[name] = _Held(self._pool.submit(self._get, name))
                held.fetched.add_done_callback(partial(_tell, self._changed))
                self._bytes += size
            elif (idle := self._idle()) is not None:
                self._drop(idle)
            else:
                self._changed.wait()  # until a reader or a download is done
                held = self._held.get(name)
        self._held.move_to_end(name)
        return held

    def _idle(self) -> str | None:
        """Return a shard that nobody reads: the longest unused, or if all are expected, the one needed last."""
        idle = [name for name, one in self._held.items() if not one.readers and one.fetched.done()]
        others = (name for name in idle if name not in self._wanted)
        return next(others, max(idle, key=lambda name: self._wanted.get(name, 0), default=None))

    def _drop(self, name: str) -> None:
        del self._held[name]
        self._bytes -= self._stored[name].size
        (self._folder / name).unlink(missing_ok=True)

    def _get(self, name: str) -> Path:
        """Fetch a shard and check it."""
        with tempfile.TemporaryDirectory(dir=self._folder) as own:
            stored = self._stored[name]
            try:
                path = self._fetch(name, Path(own))
            except Exception as error:
                free = shutil.disk_usage(self._folder).free
                if free >= stored.size:
                    raise
                raise UnavailableError(
                    f"{self._folder} has no room for {name} of {self._where}: {free:,} bytes are left, and it has "
                    f"{stored.size:,}; free some, or set PIPELINE_GOLD_DISK_GIB lower"
                ) from error
            require(path, stored.sha256, self._where, self._fix)
            if path.stat().st_size != stored.size:
                raise damaged(self._where, f"{name} has {path.stat().st_size} bytes in place of {stored.size}")
            return path.replace(self._folder / name)


def require(path: Path, expected: str, where: str, fix: str) -> None:
    """Require that a file of gold has the SHA-256 that the description says.

    Raises:
        ChangedError: it has not.
    """
    found = sha256(path)
    if found != expected:
        raise ChangedError(
            f"{path.name} of {where} was changed in the store (SHA-256 {found[:12]}..., logged with "
            f"{expected[:12]}...); {fix}, and find out who can write to the store"
        )


def _tell(changed: threading.Condition, done: Future[Path]) -> None:
    """Wake those who wait for a download. Refers to no cache, so that one is gone when nobody uses it any more."""
    with changed:
        changed.notify_all()


def _remove(folder: Path, pool: ThreadPoolExecutor, changed: threading.Condition) -> None:
    # Nobody waits: a store may be away, and a thread of the pool itself cannot. The cache's lock comes before the
    # pool's, as in `_begin`: a download that is cancelled tells the readers, which needs it.
    with changed:
        pool.shutdown(wait=False, cancel_futures=True)
    shutil.rmtree(folder, ignore_errors=True)
