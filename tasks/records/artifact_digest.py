"""The digest of a logged model's files: tells whether the store returns what train put there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tasks.errors import ModelError
from tasks.files import sha256

TAG = "pipeline.artifact_sha256"
# MLflow adds this file to what it downloads, to name the version.
ADDED = {"registered_model_meta"}


def digest(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of all files in a model's folder, as 64 hexadecimal digits."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in ADDED:
            continue
        whole.update(f"{name}\0{sha256(path)}\n".encode())
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
