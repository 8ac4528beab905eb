"""What actors of Ray answer."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayTaskError

from tasks.errors import PipelineError


def answer(reference: Any) -> Any:
    """Wait for what an actor answers.

    Raises:
        PipelineError: as the actor raised it; Ray's own would have its traceback as text.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, PipelineError):
            raise error.cause from None
        raise
