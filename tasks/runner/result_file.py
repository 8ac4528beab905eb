"""The file in which a stage leaves its result: read by the task that started it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tasks.contract.messages import StageResult


def write(result: StageResult, path: Path) -> None:
    """Write a result so that a reader sees all of it or nothing: temporary file, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(result.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # the reader may be another user: the XCom sidecar, the engine
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
