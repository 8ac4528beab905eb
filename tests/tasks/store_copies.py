"""Copies MLflow stores: what several tests begin with is made once, and each of them goes on in a copy of its own."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from mlflow.tracking._tracking_service import utils

from tasks.records.tracking import connect
from tasks.settings import Settings

T = TypeVar("T")
DATABASE = "mlflow.db"
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def copy_store(home: Path, target: Path) -> None:
    """Copy a folder with a database and its artifacts; what the copy says about places is true of the copy.

    Args:
        home: the folder; nobody writes to it meanwhile.
        target: where the copy goes; what is there of the same names is replaced.
    """
    shutil.copytree(home, target, ignore=shutil.ignore_patterns(f"{DATABASE}*"), dirs_exist_ok=True)
    with closing(sqlite3.connect(home / DATABASE)) as old, closing(sqlite3.connect(target / DATABASE)) as new:
        old.backup(new)
        with new:
            for table, column in ADDRESSES:
                new.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",  # noqa: S608  # the names are ours
                    (str(home), str(target)),
                )
    utils._artifact_repos_cache.clear()  # by run ID: a client would write into the copy that another test had


class Beginnings:
    """Stores that several tests begin with: each made by the first test that asks for it, and copied for the others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Any] = {}

    def begin(self, name: str, settings: Settings, make: Callable[[], T]) -> T:
        """Fill a test's own, empty store as `make` does; return what `make` returned."""
        if name not in self._made:
            made = make()
            copy_store(settings.pipeline_home, self._folder / name)
            self._made[name] = made
        else:
            copy_store(self._folder / name, settings.pipeline_home)
            connect(settings)
        found: T = self._made[name]
        return found
