"""The file in which a stage leaves its result: read by the task that started it."""

from __future__ import annotations

from pathlib import Path

from tasks.contract.messages import StageResult
from tasks.files import PUBLIC, replacing


def write(result: StageResult, path: Path) -> None:
    """Write a result atomically and readable by every user: the XCom sidecar and the container engine read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, PUBLIC) as file:
        file.write(result.model_dump_json().encode())
