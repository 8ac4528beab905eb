"""The digest of a logged model's files: tells whether what the store gives back is what train put there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tasks.errors import ModelError

TAG = "pipeline.artifact_sha256"
# MLflow adds it to what it downloads, to say which version it came from.
ADDED = {"registered_model_meta"}


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files in a model's folder, as hexadecimal digits."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in ADDED:
            continue
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()


def require(folder: Path, expected: str, what: str) -> None:
    """Refuse a model whose files are not those that were logged.

    Raises:
        ModelError: the digest of `folder` is another than `expected`.
    """
    found = digest(folder)
    if found != expected:
        raise ModelError(
            f"the files of {what} are not those that were registered (SHA-256 {found[:12]}..., registered "
            f"{expected[:12]}...): someone changed them in the store; train it again, or roll back"
        )
