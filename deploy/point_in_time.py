"""Bring the databases back to a point in time: `make restore-to TIME=...`.

A second Postgres, of its own network and volume, starts from the newest base backup before that time and reads the WAL
that was shipped since, until the last transaction committed by then. Its databases are saved like those of any stack,
and that backup is restored: beside the present databases, which are replaced in one transaction at the end. So the
present Postgres keeps its users, passwords and WAL, and the restore itself can be undone by another. Standard library
only.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deploy import backup, backup_encryption, engine, second_stack, wal_shipping
from deploy.backup_encryption import DamagedBackupError
from deploy.backup_file import SavedBackup
from deploy.backup_places import place_of
from deploy.backup_stack import BackupError, ComposeStack
from deploy.env_file import read
from deploy.errors import CANNOT_CREATE, DAMAGED, USAGE
from deploy.kept_record import KeptRecord
from deploy.wal_chain import NEWEST, STAMP, Kept, shown, time_given

SECONDS = 3600.0  # for the second Postgres to read the WAL
NOTE = "begun.json"
PURPOSE = "point"  # of the second stack
WAL_FOLDER = "shipped_wal"  # in the data folder of the second Postgres
SETTINGS = f"""
# make restore-to
restore_command = 'gzip -dc "{WAL_FOLDER}/%f.gz" >"%p"'
recovery_target_time = '{{time}}'
recovery_target_timeline = 'current'
recovery_target_action = 'promote'
hot_standby = off
"""
# The settings end a file that came with the base backup. The Postgres image makes all of it the server's at its start.
RECEIVE = f"""set -e; cd "$PGDATA"; mkdir {WAL_FOLDER}; tar -xf -
cat recovery.settings >>postgresql.auto.conf; touch recovery.signal"""


class Recovered(ComposeStack):
    """The second Postgres; the objects are those of the first stack, which are never rewritten."""

    def __init__(self, env_file: Path, first: ComposeStack) -> None:
        super().__init__(env_file)
        self._first = first

    def require_running(self) -> None:
        """See Stack; it was waited for."""

    def bucket(self, action: str) -> list[str]:
        """See Stack."""
        return self._first.bucket(action)


def restore_to(
    stack: ComposeStack, text: str | None, metrics: Path, *, force: bool = False, seconds: float = SECONDS
) -> list[str]:
    """Bring the stack's databases to the time that the text names; return lines that say what was done.

    Called again after it was killed, it goes on, and starts what it had stopped.

    Args:
        stack: the stack, which is up.
        text: the time, as `wal_chain.time_given` takes it; None only names those that can be restored.
        metrics: the file of `wal_shipping.run`.
        force: even if the present state cannot be shipped, so that it will be lost.
        seconds: limit for reading the WAL.

    Raises:
        BackupError: the time cannot be restored, or a step failed; the databases are then as they were.
    """
    values = read(stack.env_file)
    keys, place = backup_encryption.keys(values), place_of(values, stack)
    if not text:
        raise BackupError(f"name the time: make restore-to TIME={NEWEST}, or any. {Kept(place.names())}", USAGE)
    with wal_shipping.alone(place.folder, "restore-to") as first:
        if not first:
            raise BackupError("another restore or drill to a point in time is at work; wait for its end", CANNOT_CREATE)
        work = place.folder / "restore-to"
        begun = _begun(work, text)
        if begun is not None:
            stack.start([])  # what a restore needs: it may have been killed while that was stopped
        stack.require_running()
        when = datetime.fromisoformat(begun.time) if begun else time_given(text, Kept(place.names()))
        done = [] if begun else _keep_present(stack, values, metrics, force=force)
        Kept(place.names()).plan(when)  # a time that cannot be restored leaves nothing behind
        work.mkdir(exist_ok=True)
        (begun or _Begun(shown(when), sorted(stack.running(work=True)))).write(work / NOTE)
        saved = work / f"databases-{when.strftime(STAMP)}.backup"
        try:
            if saved.exists():
                with second_stack.prepared(values, PURPOSE):
                    pass  # what it left when it was killed is removed
            else:
                done.append(save(stack, saved, when, objects=False, seconds=seconds))
            done.append(backup.restore(stack, saved, keys, force=True))
        finally:
            shutil.rmtree(work)  # only a kill leaves it behind
            if begun is not None:
                stack.start(begun.services)
    done.append(
        f"the databases are those of {shown(when)}; objects made since stay in the bucket, no run refers to them"
    )
    return done


def save(stack: ComposeStack, path: Path, when: datetime, *, objects: bool, seconds: float = SECONDS) -> str:
    """Write a backup file of the databases as they were at a time; return a line that says from what.

    Args:
        stack: the stack whose WAL was shipped.
        path: the new file; WAL of a bucket is copied to its folder.
        when: the time.
        objects: with the objects in the stack's bucket now, which are at least those of that time.
        seconds: limit for reading the WAL.

    Raises:
        BackupError: the time cannot be restored, a file is damaged, or a step failed; no file is left.
    """
    values = read(stack.env_file)
    keys, place = backup_encryption.keys(values), place_of(values, stack)
    span = Kept(place.names()).plan(when)
    base, *wal = place.fetch_all(span.until(when), path.parent)
    with second_stack.prepared(values, PURPOSE) as second:
        try:
            _fill(second, *(backup.authenticated(file, keys) for file in (base, *wal)), when=when)
        except DamagedBackupError as error:
            raise BackupError(f"{error}; nothing was changed", DAMAGED) from None
        second_stack.run(engine.compose(engine.STATE, "up", "--detach", "--no-deps", "postgres", env_file=second))
        recovered = Recovered(second, stack)
        _wait(recovered, seconds)
        backup.save(recovered, path, keys[0], objects=objects)
    return f"{shown(when)}: from {base.name} and {len(wal)} files of WAL"


def save_newest(stack: ComposeStack, text: str, use: Callable[[Path], list[str]]) -> list[str]:
    """Save the state of a time with its objects, let `use` have the file, and delete it; return the lines of both.

    Raises:
        BackupError: as `save`, or of `use`.
    """
    place = place_of(read(stack.env_file), stack)
    with wal_shipping.alone(place.folder, "restore-to") as first:
        if not first:
            raise BackupError("another restore or drill to a point in time is at work; wait for its end", CANNOT_CREATE)
        with tempfile.TemporaryDirectory(dir=place.folder, prefix="restore-drill-") as folder:
            file = Path(folder) / "point.backup"
            said = save(stack, file, time_given(text, Kept(place.names())), objects=True)
            return [said, *use(file)]


@dataclass(frozen=True)
class _Begun(KeptRecord):
    """A restore that has begun, and may be killed: its time, as `shown`, and the services that ran before it."""

    time: str
    services: list[str]


def _begun(work: Path, text: str) -> _Begun | None:
    note = work / NOTE
    if not note.exists():
        return None
    begun = _Begun.read(note)
    if text != NEWEST and time_given(text, Kept([])) != datetime.fromisoformat(begun.time):
        raise BackupError(
            f"a restore to {begun.time} was interrupted: TIME={begun.time} goes on with it; to give it up, "
            f"delete {work} and run make up",
            CANNOT_CREATE,
        )
    return begun


def _keep_present(stack: ComposeStack, values: Mapping[str, str], metrics: Path, *, force: bool) -> list[str]:
    """Ship the WAL of the present state, so that what the restore replaces can be had again."""
    try:
        if not wal_shipping.is_on(values):
            raise BackupError(f"{wal_shipping.SWITCH} is not 1 in .env")
        return wal_shipping.run(stack, values, metrics, wait=SECONDS)
    except BackupError as error:
        if force:
            return [f"the present state is lost: {error}"]
        raise BackupError(
            f"{error}; the present state could not be had again; FORCE=1 restores all the same", USAGE
        ) from None


def _fill(second: Path, base: SavedBackup, *wal: SavedBackup, when: datetime) -> None:
    """Put the base backup, the WAL and the settings of the recovery into the volume of the second Postgres."""
    with tempfile.TemporaryFile() as tar:
        base.extract(wal_shipping.BASE_MEMBER, tar)
        tar.seek(0)
        ComposeStack(second).once("postgres", 'tar -xzf - -C "$PGDATA"', stdin=tar)
    with tempfile.TemporaryFile() as tar:
        with tarfile.open(fileobj=tar, mode="w") as archive:
            settings = SETTINGS.format(time=when.isoformat()).encode()
            info = tarfile.TarInfo("recovery.settings")
            info.size = len(settings)
            archive.addfile(info, io.BytesIO(settings))
            for saved in wal:
                with saved.members(wal_shipping.WAL_MEMBERS) as members:
                    for info, content in members:
                        info.name = f"{WAL_FOLDER}/{info.name}"
                        archive.addfile(info, content)
        tar.seek(0)
        ComposeStack(second).once("postgres", RECEIVE, stdin=tar)


def _wait(recovered: Recovered, seconds: float) -> None:
    """Wait until the second Postgres has read all WAL until the time.

    Raises:
        BackupError: it gave up, or takes too long; the text is what it wrote.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if recovered.sql("SELECT pg_is_in_recovery()") == "f":
                return
        except BackupError:
            pass  # it starts, or has ended: its words say which
        if words := recovered.fatal_error("postgres"):
            raise BackupError(f"the databases could not be brought to that time; Postgres says: {words}", DAMAGED)
        if time.monotonic() > deadline:
            raise BackupError(f"Postgres has not read the WAL after {seconds:.0f} s; nothing was changed")
        time.sleep(0.5)
