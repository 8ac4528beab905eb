"""A temporary SQLite database on disk: what is known of each image without its being in memory."""

from __future__ import annotations

import sqlite3
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tasks.errors import UnavailableError

_FULL = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")


class DiskDatabase:
    """A database that SQLite removes when it is not used any more, also when the process is killed.

    It may be used from any thread, by one at a time.
    """

    def __init__(self, cache_bytes: int) -> None:
        """Make an empty one, of which so many bytes stay in memory; the rest is in the folder of temporary files."""
        # One transaction, which is neither committed nor rolled back, as nobody reads what an ended process leaves:
        # a commit writes what has changed in the cache, and after each image it took 0.3 ms.
        self._connection = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        weakref.finalize(self, self._connection.close)
        for setting in ("journal_mode = OFF", f"cache_size = -{max(1, cache_bytes // 1024)}", "temp_store = FILE"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("BEGIN")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement.

        Raises:
            UnavailableError: the disk is full.
        """
        return self._run(self._connection.execute, statement, values)

    def insert(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each of the rows.

        Raises:
            UnavailableError: the disk is full.
        """
        self._run(self._connection.executemany, statement, rows)

    def _run(self, run: Callable[[str, Any], sqlite3.Cursor], statement: str, values: Any) -> sqlite3.Cursor:
        try:
            return run(statement, values)
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(_FULL):
                raise
            raise UnavailableError(
                f"{tempfile.gettempdir()} has no room for what is known of the images ({error}); free some, or give "
                "the stage a larger disk"
            ) from error
