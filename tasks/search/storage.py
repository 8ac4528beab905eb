"""Where a search keeps what a later try needs: its own folder under `Settings.tune_storage`, local or on S3.

    STORAGE/TUNE RUN ID/try-000/trial-00007/checkpoint_000001/     as Ray lays it out, one folder per try

Ray writes pickles beside the checkpoints; nothing here reads them. Checkpoints are tensors and plain values, checked
against their SHA-256.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pyarrow.fs import FileSelector, FileSystem, FileType, copy_files

from tasks.cluster.environment import environment
from tasks.errors import PipelineError, SettingsError, UnavailableError
from tasks.settings import Settings

TRY = re.compile(r"try-(\d+)$")
CHECKPOINT = re.compile(r"try-(\d+)/trial-(\d+)/checkpoint_(\d+)$")


def variables(settings: Settings) -> dict[str, str]:
    """Return the environment variables from which Arrow reads the storage's region, endpoint and user."""
    secret = settings.tune_storage_secret_access_key
    given = {
        "AWS_REGION": settings.tune_storage_region,
        "AWS_ENDPOINT_URL": settings.tune_storage_endpoint_url,
        "AWS_ACCESS_KEY_ID": settings.tune_storage_access_key_id,
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else None,
        # Otherwise an upload has its checksum in a trailer, which some stores refuse with 411.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    return {name: value for name, value in given.items() if value}


@contextmanager
def credentials(settings: Settings) -> Iterator[None]:
    """Put the storage's endpoint and user into this process's environment, for Arrow and for Ray's workers.

    Not into the URI, because Ray stores that.
    """
    with environment(variables(settings)):
        yield


class SearchStorage:
    """The folder of one search."""

    def __init__(self, settings: Settings, tune_run_id: str) -> None:
        """Find the storage; nothing is written yet.

        Raises:
            SettingsError: there is no such bucket, or it refuses the user.
            UnavailableError: the store does not answer.
        """
        uri, self._system, root = _open(settings)
        self.path, self._folder = f"{uri}/{tune_run_id}", f"{root}/{tune_run_id}"

    def next_try(self) -> str:
        """Return the name of a folder that no earlier try has written to."""
        numbers = [int(match[1]) for name in _folders(self._system, self._folder) if (match := TRY.search(name))]
        return f"try-{max(numbers, default=-1) + 1:03d}"

    def checkpoints(self) -> dict[int, list[str]]:
        """List where the checkpoints of each trial are, the newest first."""
        found: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
        for name in _folders(self._system, self._folder):
            if match := CHECKPOINT.search(name):
                attempt, trial, index = map(int, match.groups())
                found[trial].append((attempt, index, f"{self.path}/{match[0]}"))
        return {trial: [uri for _, _, uri in sorted(places, reverse=True)] for trial, places in found.items()}

    def remove(self) -> None:
        """Delete the folder with everything in it, if there is one."""
        if self._system.get_file_info(self._folder).type is not FileType.NotFound:
            self._system.delete_dir(self._folder)


def searches(settings: Settings) -> list[str]:
    """List the tune runs that have a folder in the storage.

    Raises:
        SettingsError: there is no such bucket, or it refuses the user.
        UnavailableError: the store does not answer.
    """
    _, system, root = _open(settings)
    try:
        below = [PurePosixPath(name).relative_to(root).parts for name in _folders(system, root) if name != root]
    except OSError as error:
        raise _explained(settings.tune_storage, error) from error
    return sorted({parts[0] for parts in below})


def _open(settings: Settings) -> tuple[str, FileSystem, str]:
    """Find the storage: its URI, its file system, and its folder there."""
    given = settings.tune_storage
    uri = given if "://" in given else str(Path(given).resolve())
    try:
        system, root = FileSystem.from_uri(uri)
        bucket = root.partition("/")[0]
        there = not bucket or system.get_file_info(bucket).type is not FileType.NotFound
    except OSError as error:
        raise _explained(given, error) from error
    if not there:
        raise SettingsError(f"TUNE_STORAGE_URI={given}: there is no bucket {bucket!r}; create it, or name another")
    return uri, system, root


def _folders(system: FileSystem, root: str) -> list[str]:
    """List all folders below `root`; where a store has no folders, those in the paths of its files."""
    entries = system.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    folders = {entry.path for entry in entries if entry.type is FileType.Directory}
    for entry in entries:
        folders.update(str(parent) for parent in PurePosixPath(entry.path).parents if parent.is_relative_to(root))
    return sorted(folders)


def _explained(root: str, error: OSError) -> PipelineError:
    """Return the error that says what is wrong with the storage."""
    cause = " ".join(str(error).split())[:300]
    if "ACCESS_DENIED" in cause or "INVALID_ACCESS_KEY" in cause or "SIGNATURE" in cause:
        return SettingsError(f"TUNE_STORAGE_URI={root} refuses the user ({cause}); check TUNE_STORAGE_ACCESS_KEY_ID")
    return UnavailableError(f"the storage at TUNE_STORAGE_URI={root} does not answer ({cause})")


def download(uri: str, folder: Path) -> None:
    """Copy the files under `uri` into `folder`.

    Raises:
        OSError: they do not exist, or the store does not answer.
    """
    system, path = FileSystem.from_uri(uri)
    if system.get_file_info(path).type is FileType.NotFound:
        raise FileNotFoundError(f"{uri} does not exist any more")
    copy_files(path, str(folder), source_filesystem=system)
