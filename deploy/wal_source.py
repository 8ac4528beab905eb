"""Postgres' WAL, which a replication slot holds back until it is shipped, up to a limit. Standard library only."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import IO

from deploy.backup_stack import BackupError, ComposeStack
from deploy.wal_chain import time_of

SLOT = "vision_mlops_backup"
END = b"end of the base backup"  # written after it: a stream that was cut off has none
STATE = """SELECT json_build_object(
    'history', (SELECT system_identifier FROM pg_control_system()) || '-' || timeline_id,
    'timeline', timeline_id,
    'size', (SELECT bytes_per_wal_segment FROM pg_control_init()),
    'now', pg_current_wal_insert_lsn() - '0/0',
    'limit', current_setting('max_slot_wal_keep_size'),
    'held', (SELECT restart_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = :'slot'),
    'slot', (SELECT wal_status FROM pg_replication_slots WHERE slot_name = :'slot')) FROM pg_control_checkpoint()"""
CLOCK = """SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS.US"Z"');"""
# A recovery to a time ends at the first transaction after it: this one, after the time that the file's name will give.
MARK = f"{CLOCK} SELECT pg_current_xact_id(); SELECT pg_switch_wal();"


@dataclass(frozen=True)
class State:
    """What Postgres says about its WAL; positions and sizes are in bytes.

    Attributes:
        history: system identifier and timeline.
        timeline: number of the timeline.
        size: size of a segment.
        now: where it writes.
        limit: how much the slot may hold back, as Postgres writes sizes.
        held: from where on the slot holds back WAL; None without a slot, or when it was given up.
        slot: state of the slot; None without one.
    """

    history: str
    timeline: int
    size: int
    now: int
    limit: str
    held: int | None
    slot: str | None

    def segment(self, number: int) -> str:
        """Return Postgres' name of a segment."""
        high, low = divmod(number, (1 << 32) // self.size)
        return f"{self.timeline:08X}{high:08X}{low:08X}"


class Source:
    """The WAL of a stack's Postgres."""

    def __init__(self, stack: ComposeStack) -> None:
        self._stack = stack

    def state(self) -> State:
        """Return what Postgres says."""
        return State(**json.loads(self._stack.sql(STATE, slot=SLOT)))

    def now(self) -> datetime:
        """Return the time that Postgres' clock shows."""
        return time_of(self._stack.sql(CLOCK))

    def hold(self, megabytes: int) -> bool:
        """Let Postgres hold back WAL up to a limit; tell whether it gave up what it held back before."""
        state = self.state()
        limit = f"{megabytes // 1024}GB" if megabytes % 1024 == 0 else f"{megabytes}MB"  # as Postgres shows it
        if state.limit != limit:
            self._stack.sql(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{limit}'; SELECT pg_reload_conf()")
        lost = state.slot is not None and (state.slot == "lost" or state.held is None)
        if lost:
            self._stack.sql("SELECT pg_drop_replication_slot(:'slot')", slot=SLOT)
        if lost or state.slot is None:
            self._stack.sql("SELECT pg_create_physical_replication_slot(:'slot', true)", slot=SLOT)
        return lost

    def end_segment(self) -> datetime:
        """Let Postgres go on with the next segment; return a time until which all commits are in those before."""
        return time_of(self._stack.sql(MARK).splitlines()[0])

    def read(self, state: State, number: int, target: IO[bytes]) -> None:
        """Write a segment to an empty file, compressed.

        Raises:
            BackupError: it cannot be read, or was cut off.
        """
        name = state.segment(number)
        self._stack.postgres(f'gzip -1 <"$PGDATA/pg_wal/{name}"', stdout=target)
        if _unzipped_size(target) != state.size:
            raise BackupError(f"WAL segment {name} was cut off on its way; run it again")

    def read_base(self, target: IO[bytes]) -> int:
        """Write a base backup, a compressed tar, to an empty file; return its size in bytes.

        Raises:
            BackupError: it was cut off, or Postgres' tool failed.
        """
        options = "--pgdata=- --format=tar --wal-method=none --compress=gzip:1 --checkpoint=fast"
        self._stack.postgres(f"pg_basebackup {options} && printf '{END.decode()}'", stdout=target)
        size = target.seek(0, io.SEEK_END) - len(END)
        target.seek(max(size, 0))
        if target.read() != END:
            raise BackupError("the base backup was cut off; run it again")
        return size

    def release(self, position: int) -> None:
        """Let Postgres remove WAL before a position."""
        lsn = f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
        self._stack.sql("SELECT pg_replication_slot_advance(:'slot', :'lsn')", slot=SLOT, lsn=lsn)

    def let_go(self) -> bool:
        """Let Postgres hold back nothing; tell whether it did. One that does not run is left alone."""
        exists = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = :'slot'"
        if "postgres" not in self._stack.running() or self._stack.sql(exists, slot=SLOT) == "0":
            return False
        self._stack.sql("SELECT pg_drop_replication_slot(:'slot')", slot=SLOT)
        self._stack.sql("ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()")
        return True


def _unzipped_size(file: IO[bytes]) -> int:
    file.seek(0)
    size = 0
    with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile), gzip.open(file) as content:
        while chunk := content.read(1 << 20):
            size += len(chunk)
    return size
