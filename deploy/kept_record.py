"""A base for what one step of a command keeps in a file for a later one. Standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tasks.files import replacing


@dataclass(frozen=True)
class KeptRecord:
    """A dataclass of texts, numbers, lists and dicts, kept as JSON."""

    def write(self, file: Path) -> None:
        """Keep it in a file, which is written in one step."""
        with replacing(file) as opened:
            opened.write(json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return what `write` kept."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))
