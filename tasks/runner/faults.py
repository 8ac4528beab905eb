"""Fault injection for the chaos test (docs/reliability.md); does nothing unless PIPELINE_FAULT is set.

Every external write of a stage is a point, `STAGE/FUNCTION#N` for the N-th call of that function: a write to MLflow's
tracking store or registry, an artifact, its removal, the result file, a change of the service. The variable holds JSON:

    {"record": "FILE"}                                      append the name of each point reached
    {"point": "train/log_batch#2", "when": "before", "action": "SIGKILL", "marker": "FILE"}

A fault happens once: its marker file is created first, and a process that finds it injects nothing, so that the next
try succeeds. The variable is not in `Settings`: the configuration of a pipeline must not be able to inject faults.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from tasks.contract.messages import Message, parse
from tasks.errors import SettingsError
from tasks.runner import result_file

VARIABLE = "PIPELINE_FAULT"
# Prefixes of the methods of MLflow's stores that write; those that only read begin with get, list, search and the like.
WRITES = (
    *("copy_", "create_", "delete_", "finalize_", "link_", "log_", "record_", "rename_", "restore_", "set_"),
    *("transition_", "update_"),
)
ARTIFACTS = ("log_artifact", "log_artifacts")
REMOVALS = ("delete_artifacts",)


class Fault(Message):
    """The value of PIPELINE_FAULT: either `record`, or a point with the fault to inject there."""

    record: Path | None = None
    point: str | None = None
    when: Literal["before", "during", "after"] = "before"
    """Relative to the write; `during`: half of an artifact is written or removed, or all written with a flipped bit."""
    action: Literal["SIGKILL", "SIGTERM", "away", "full", "damaged"] = "SIGKILL"
    """A signal to this process; `away`: the store cannot be reached any more (ConnectionError); `full`: the disk is
    full (ENOSPC); `damaged`: during a write, a flipped bit in each file, then SIGKILL."""
    marker: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.record is None) == (self.point is None):
            raise ValueError("give either record, or point and marker")
        if self.point is not None and self.marker is None:
            raise ValueError("point without marker: the fault would hit every try; name a file that does not exist")
        if self.when == "during" and (self.point is None or not _is_one_of((*ARTIFACTS, *REMOVALS), self.point)):
            raise ValueError(f"when='during' is for {', '.join(ARTIFACTS)} and {', '.join(REMOVALS)} only")
        if self.action == "damaged" and self.point is not None and _is_one_of(REMOVALS, self.point):
            raise ValueError("action='damaged' is for what is written, not removed")
        if self.action == "damaged" and self.when != "during":
            raise ValueError("action='damaged' is for when='during' only")
        return self


def arm(stage: str) -> None:
    """Wrap the external writes of this process where PIPELINE_FAULT asks for it.

    Raises:
        SettingsError: the variable is set and its value cannot be used.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return
    points = _Points(stage, parse(Fault, text, SettingsError))
    # Imported here, so that a process without faults imports nothing for this.
    from mlflow.store.artifact.artifact_repository_registry import ArtifactRepositoryRegistry
    from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
    from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry

    for registry in (TrackingStoreRegistry, ModelRegistryStoreRegistry):
        _wrap_made(registry, "get_store", points, WRITES)
    _wrap_made(ArtifactRepositoryRegistry, "get_artifact_repository", points, (*ARTIFACTS, *REMOVALS))
    points.wrap(result_file, "write", "write_result")
    if stage == "deploy":  # other stages' images lack these modules
        from tasks.serving import process
        from tasks.serving.client import ServiceClient

        points.wrap(process, "start")
        points.wrap(process, "stop")
        points.wrap(ServiceClient, "refresh")
    if stage == "predict":
        from tasks.prediction.destinations import LocalFolder, S3Prefix

        for place in (LocalFolder, S3Prefix):  # the artifacts of a run are points already
            points.wrap(place, "put")


class _Points:
    """Counts the points that a process reaches, and injects the fault at the chosen one."""

    def __init__(self, stage: str, fault: Fault) -> None:
        self._stage = stage
        self._fault = fault
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._away = False

    def wrap(self, owner: Any, name: str, point_name: str | None = None) -> None:
        """Make the function `name` of a module, class or object a point, under that name or `point_name`."""
        write = getattr(owner, name)

        @functools.wraps(write)
        def point(*args: Any, **kwargs: Any) -> Any:
            # A write within another write is part of it: an internal of the store.
            if getattr(self._inside, "write", False):
                return write(*args, **kwargs)
            self._inside.write = True
            try:
                return self._reach(point_name or name, write, args, kwargs)
            finally:
                self._inside.write = False

        setattr(owner, name, point)

    def _reach(self, name: str, write: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            self._counts[name] += 1
            point = f"{self._stage}/{name}#{self._counts[name]}"
        fault = self._fault
        if self._away:
            self._stay_away(point)
        if fault.record is not None:
            with fault.record.open("a", encoding="utf-8") as file:
                file.write(f"{point}\n")
        if point != fault.point or not _first(fault.marker):
            return write(*args, **kwargs)
        if fault.when == "before":
            self._strike(point)
            return write(*args, **kwargs)
        if fault.when == "during" and name in REMOVALS:
            _remove_half(write, *args, **kwargs)
            self._strike(point)
            return write(*args, **kwargs)
        if fault.when == "during":
            with tempfile.TemporaryDirectory(prefix="torn-") as folder:
                spoil = _damaged if fault.action == "damaged" else _half
                write(spoil(Path(args[0]), Path(folder)), *args[1:], **kwargs)
                self._strike(point)
            return write(*args, **kwargs)
        try:
            return write(*args, **kwargs)
        finally:  # also after an error, as for a registered model that exists already
            self._strike(point)

    def _strike(self, point: str) -> None:
        match self._fault.action:
            case "away":
                self._away = True
                self._stay_away(point)
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), point)
            case "damaged":
                os.kill(os.getpid(), signal.SIGKILL)
            case name:
                os.kill(os.getpid(), signal.Signals[name])

    def _stay_away(self, point: str) -> None:
        raise ConnectionError(f"{VARIABLE}: no answer to {point}")


def _wrap_made(registry: type, name: str, points: _Points, prefixes: tuple[str, ...]) -> None:
    """Wrap, once, every store that a registry of MLflow returns, whatever its class."""
    make = getattr(registry, name)

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        store = make(*args, **kwargs)
        if VARIABLE not in vars(store):
            vars(store)[VARIABLE] = True
            for method in [method for method in dir(type(store)) if method.startswith(prefixes)]:
                points.wrap(store, method)
        return store

    setattr(registry, name, made)


def _is_one_of(functions: tuple[str, ...], point: str) -> bool:
    return point.partition("/")[2].partition("#")[0] in functions


def _first(marker: Path | None) -> bool:
    """Create the marker file; False if it exists, because the fault has happened."""
    assert marker is not None  # noqa: S101  # validated: every fault with a point has one
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _half(whole: Path, folder: Path) -> str:
    """Copy the first half of a file, or of a folder's files with the last one cut in half, under the same name."""
    target = folder / whole.name
    if whole.is_file():
        target.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        return str(target)
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    kept = files[: (len(files) + 1) // 2]
    for path in kept:
        copy = target / path.relative_to(whole)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if kept:
        os.truncate(copy, copy.stat().st_size // 2)
    return str(target)


def _remove_half(remove: Callable[..., Any], folder: str) -> None:
    """Remove the first half of the files below an artifact folder, as a removal does that is cut short."""
    repository = remove.__self__  # type: ignore[attr-defined]  # a method of the store
    todo, files = [folder], list[str]()
    while todo:
        for found in repository.list_artifacts(todo.pop()):
            (todo if found.is_dir else files).append(found.path)
    for path in sorted(files)[: (len(files) + 1) // 2]:
        remove(path)


def _damaged(whole: Path, folder: Path) -> str:
    """Copy a file, or a folder, under the same name, with a flipped bit in the middle of each file."""
    target = folder / whole.name
    (shutil.copyfile if whole.is_file() else shutil.copytree)(whole, target)
    for path in [target] if whole.is_file() else sorted(target.rglob("*")):
        if path.is_file() and path.stat().st_size:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    return str(target)
