"""The backup that a timer of this machine starts: to another store, with retention, and a metric of its age.

A backup is written and read again, then brought to where backups are kept, then old ones are deleted there, then the
metric says so. When a step fails, the later ones do not happen: nothing is deleted unless there is a new backup, and
the alert BackupTooOld fires 26 hours after the last one that succeeded. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy import backup, backup_encryption
from deploy.backup_places import Place, new_name, place_of, time_of
from deploy.backup_stack import BackupError, ComposeStack
from deploy.env_file import ROOT
from deploy.errors import CONFIG, NO_INPUT
from tasks.files import PUBLIC, replacing

KEEP_DAYS = 30
METRICS = ROOT / "deploy" / "monitoring" / "textfile" / "backup.prom"  # node-exporter reads the folder


def run(stack: ComposeStack, values: Mapping[str, str], metrics: Path) -> list[str]:
    """Make a backup, keep it where `.env` says, delete old ones; return lines that say what was done.

    Raises:
        BackupError: a setting is wrong, or a step failed.
    """
    days, keys, place = keep_days(values), backup_encryption.keys(values), place_of(values, stack)
    place.backups()  # a place that cannot be read is an error before the work
    new = place.folder / new_name()
    done = [backup.save(stack, new, keys[0])]
    backup_encryption.authenticate(new, keys)
    size = new.stat().st_size
    try:
        done.append(f"kept at {place.put(new)}")
    except BackupError as error:
        raise BackupError(f"{error}; the backup stays at {new}", error.code) from None
    if old := outdated(place.backups(), days, datetime.now(UTC)):
        place.delete(old)
        done.append(f"deleted, as older than {days} days: {', '.join(old)}")
    began = time_of(new.name).timestamp()
    write_metrics(metrics, {"backup_last_success_timestamp_seconds": began, "backup_last_size_bytes": size})
    return done


def fetch(stack: ComposeStack, values: Mapping[str, str], name: str | None) -> Path:
    """Return the path of a backup, the newest unless a name is given, copied to this machine if need be.

    Raises:
        BackupError: there is none of that name, or none at all.
    """
    place: Place = place_of(values, stack)
    known = place.backups()
    if not known or (name and name not in known):
        raise BackupError(f"no backup {name or ''}; there are: {', '.join(known) or 'none'}", NO_INPUT)
    return place.fetch(name or known[0])


def keep_days(values: Mapping[str, str]) -> int:
    """Return BACKUP_KEEP_DAYS; 0 means that nothing is deleted.

    Raises:
        BackupError: it is no number.
    """
    text = values.get("BACKUP_KEEP_DAYS") or str(KEEP_DAYS)
    if not text.isdecimal():
        raise BackupError(f"BACKUP_KEEP_DAYS={text} is not a number of days; 0 keeps all", CONFIG)
    return int(text)


def outdated(backups: Sequence[str], days: int, now: datetime) -> list[str]:
    """Return the backups to delete: those older than the days given, never the newest."""
    newest_first = sorted(backups, reverse=True)
    return [name for name in newest_first[1:] if days and now - time_of(name) > timedelta(days=days)]


def write_metrics(path: Path, values: Mapping[str, float]) -> None:
    """Write values by their names for node-exporter's textfile collector."""
    lines = [line for name, value in values.items() for line in (f"# TYPE {name} gauge", f"{name} {value:.0f}")]
    with replacing(path, PUBLIC) as file:  # node-exporter is nobody
        file.write(("\n".join(lines) + "\n").encode())
