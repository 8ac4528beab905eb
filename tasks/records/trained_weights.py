"""Loads the trained weights that a training starts from."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from torch import Tensor

from tasks.records.inputs.weights import Weights
from tasks.vision.models import weights

log = logging.getLogger("tasks.train")


def load(chosen: Weights) -> dict[str, Tensor]:
    """Fetch weights, check their digest, and read them by name.

    Raises:
        DataError: the file was changed, or holds no weights.
    """
    log.info("starting from the weights of %s (SHA-256 %s, licence: %s)", chosen.source, chosen.sha256, chosen.licence)
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        return weights.read(chosen.fetch(Path(folder)))
