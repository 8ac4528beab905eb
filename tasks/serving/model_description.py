"""The file `MLmodel` of a logged model, as far as the service reads it.

MLflow's own reader takes the signature too, which it needs pandas for: 65 MB of the image and 40 MB of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from tasks.errors import ModelError

FILE = "MLmodel"
LARGEST = 2**20  # bytes; real ones have some thousand


class Described(Protocol):
    """What tells how a model is opened: a `ModelDescription`, or MLflow's `Model`."""

    @property
    def flavors(self) -> Mapping[str, Any]:
        """What each of MLflow's flavors says of it, by name."""


@dataclass(frozen=True)
class ModelDescription:
    """A logged model's flavors, and the metadata that train wrote: classes, input, architecture."""

    flavors: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> ModelDescription:
        """Read the description of the model in a folder.

        Raises:
            ModelError: there is none, or it is malformed.
        """
        file = folder / FILE
        try:
            if file.stat().st_size > LARGEST:
                raise ModelError(f"its file {FILE} has over {LARGEST} bytes; train the model again")
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"its file {FILE} cannot be read ({reason}); train the model again") from error
        found: dict[str, Any] = content if isinstance(content, dict) else {}
        flavors: Any = found.get("flavors")
        metadata: Any = found.get("metadata") or {}
        parts = (flavors, metadata, *(flavors.values() if isinstance(flavors, dict) else ()))
        if not all(isinstance(part, dict) for part in parts):
            raise ModelError(f"its file {FILE} is not the description of a model; train the model again")
        return cls(flavors, metadata)
