"""Loads the trained weights that a training starts from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from tasks.records.inputs.weights import Weights
from tasks.vision.models import weights


def load(chosen: Weights) -> dict[str, Tensor]:
    """Fetch weights, check their digest, and read them by name.

    Raises:
        DataError: the file was changed, or holds no weights.
    """
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        return weights.read(chosen.fetch(Path(folder)))
