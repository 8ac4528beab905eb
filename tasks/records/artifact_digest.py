"""The digest of a logged model's files: tells whether the store returns what train put there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tasks.errors import ModelError
from tasks.files import sha256

TAG = "pipeline.artifact_sha256"
# MLflow adds this file to what it downloads, to name the version.
ADDED = {"registered_model_meta"}


def digest(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of all files in a model's folder, as 64 hexadecimal digits."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return of_files({name: sha256(path) for name, path in names.items() if name not in ADDED})


def of_files(files: Mapping[str, str]) -> str:
    """Return the same of files whose SHA-256 are known, by their names in the folder."""
    whole = hashlib.sha256()
    for name in sorted(files, key=PurePosixPath):
        whole.update(f"{name}\0{files[name]}\n".encode())
    return whole.hexdigest()


def require(folder: Path, expected: str, what: str) -> None:
    """Require that a model's files are those that were logged.

    Raises:
        ModelError: the digest of `folder` is not `expected`.
    """
    found = digest(folder)
    if found != expected:
        raise ModelError(
            f"the files of {what} are not those that were registered (SHA-256 {found[:12]}..., registered "
            f"{expected[:12]}...): they were changed in the store; train it again, or roll back"
        )
