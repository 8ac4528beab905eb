"""The fingerprint of gold: one SHA-256 of everything that gold depends on.

Gold is made in four layers, each a function of its input alone:

    raw     the files of the source with their split and class (`sources`)
    bronze  every image as read: content hash, declared size, pixels or what is wrong with it (`bronze`)
    silver  the images fit to train on, and why the others are not (`silver`)
    gold    stratified train, validation and test tensors, with the statistics of train (`splits`)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from tasks.contract.data import PrepareRequest
from tasks.contract.datasets import DATASETS, Files
from tasks.vision.data.records import Listing
from tasks.vision.data.sources import Source

# Part of the fingerprint: raise it with every change of a layer that can change gold.
LAYERS_VERSION = 1
# The same for how an image file becomes pixels: without `decoder` in a fingerprint, gold is of the releases that read
# PNG and JPEG only, and applied no colour profile. Images that come as arrays are not decoded, and have none.
DECODER_VERSION = 2


@dataclass(frozen=True)
class Shaping:
    """The settings that shape gold; with the source's digest they are its fingerprint."""

    dataset: str
    channels: int
    size: int
    validation_fraction: float
    test_fraction: float
    seed: int

    @classmethod
    def of(cls, request: PrepareRequest, source: Source) -> Self:
        """Take what the request sets, and the rest from the source."""
        return cls(
            dataset=source.dataset,
            channels=source.channels,
            size=request.image_size or source.side,
            validation_fraction=request.validation_fraction,
            test_fraction=request.test_fraction,
            seed=request.data_seed,
        )


def fingerprint(source_digest: str, shaping: Shaping, listing: Listing, corrections: str = "") -> str:
    """Return the SHA-256 (hex) of everything gold depends on, as canonical JSON.

    Args:
        source_digest: of the source's content.
        shaping: the settings.
        listing: the images with split and class, corrected where there are corrections.
        corrections: SHA-256 of the corrections; "" where there are none.
    """
    content = {
        "layers": LAYERS_VERSION,
        "source": source_digest,
        "dataset": shaping.dataset,
        "channels": shaping.channels,
        "size": shaping.size,
        # Where the source brings a validation or test set, none is split off and the fraction changes nothing.
        "validation_fraction": None if listing.has_validation else shaping.validation_fraction,
        "test_fraction": None if listing.has_test else shaping.test_fraction,
        "seed": shaping.seed,
    }
    if shaping.dataset not in DATASETS or isinstance(DATASETS[shaping.dataset].opener, Files):
        content["decoder"] = DECODER_VERSION
        # Releases may differ in which files of the same archive they use, and in the class they give them.
        content["selection"] = sorted((entry.name, entry.split, entry.label) for entry in listing.entries.values())
    if listing.columns:  # the digest of a folder covers its images only
        content["columns"] = listing.columns
        content["metadata"] = sorted((entry.name, *entry.metadata) for entry in listing.entries.values())
    if corrections:  # without any, as in releases that had none
        content["corrections"] = corrections
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
