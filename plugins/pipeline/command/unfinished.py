"""Remembers which DAG run on this machine did not finish, so that the same command resumes it.

The logical date identifies a run: for the same date Airflow makes the same run ID, by which every stage finds its
MLflow run and resumes it. Each running command keeps that date in a file and holds a lock on it. A file without a
lock belongs to a run that was killed, or that failed for a reason that may go away.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from tasks.errors import RequestError
from tasks.settings import Settings


@dataclass
class Claim:
    """A DAG run that only this process works on, until the claim is released."""

    date: datetime
    resumed: bool
    ended: bool = False  # set when there is nothing left to resume


@contextmanager
def claim(dag_id: str, conf: Mapping[str, Any], settings: Settings, *, anew: bool = False) -> Iterator[Claim]:
    """Claim the unfinished run of this DAG with this configuration, or a new one; `anew` drops the unfinished one.

    Raises:
        RequestError: another process has claimed it.
    """
    where = [str(settings.pipeline_runtime), settings.tracking_uri]
    digest = hashlib.sha256(json.dumps([*where, conf], sort_keys=True).encode()).hexdigest()
    path = settings.pipeline_home / "unfinished" / f"{dag_id}-{digest[:16]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, dag_id) as file:
        written = file.read()
        resumed = bool(written) and not anew
        date = datetime.fromisoformat(written) if resumed else datetime.now(UTC)
        file.truncate(0)
        file.write(date.isoformat())
        file.flush()
        taken = Claim(date, resumed)
        try:
            yield taken
        finally:
            if taken.ended:
                path.unlink()


@contextmanager
def _locked(path: Path, dag_id: str) -> Iterator[TextIO]:
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(
                    f"{dag_id} with this configuration is already running on this machine; wait for it, or stop it"
                ) from None
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # the previous holder of the lock has removed the file
            file.seek(0)
            yield file
            return
