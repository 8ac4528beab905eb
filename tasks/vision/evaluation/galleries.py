"""Test images that a person should look at: the worst mistakes, with the region that decided, and suspected labels."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tasks.vision.data import images
from tasks.vision.data.gold import Gold
from tasks.vision.evaluation.decisive_regions import CELLS
from tasks.vision.evaluation.scoring import Answers
from tasks.vision.evaluation.suspected_labels import Suspect

TILES = 12
TILE_SIDE = 128  # pixels; larger images are averaged down to under twice that
COLOURS = "viridis"  # its order is that of its brightness, and safe for the colour-blind
OPACITY = 0.65  # of the most decisive place; what did not decide stays grey


@dataclass(frozen=True)
class Gallery:
    """Wrong answers of one kind: how many, and the indices of the test images shown, the most confident first."""

    title: str
    count: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Tile:
    """One wrong answer."""

    picture: str
    region: str | None  # the picture with what decided marked; None if no region did
    name: str
    true: str
    predicted: str
    confidence: float
    champion: float | None  # its probability of the true class


@dataclass(frozen=True)
class SuspectTile:
    """One label that is probably wrong."""

    picture: str
    name: str
    given: str
    suggested: str
    score: float


def worst_mistakes(labels: NDArray[np.int64], candidate: Answers, champion: Answers | None) -> list[Gallery]:
    """Choose the wrong answers to test images of which the candidate is surest.

    Args:
        labels: [N], the true ones.
        candidate: its answers to the N images.
        champion: the champion's; None where there is none, or it is the candidate itself.
    """
    wrong = candidate.predicted != labels
    kinds = {"The candidate's most confident mistakes": wrong}
    if champion is not None:
        kinds["Lost (the champion is right)"] = wrong & (champion.predicted == labels)
    chosen = []
    for title, members in kinds.items():
        indices = np.flatnonzero(members)
        surest = indices[np.argsort(-candidate.confidence[indices], kind="stable")][:TILES]
        chosen.append(Gallery(title, len(indices), tuple(surest.tolist())))
    return chosen


def tiles(
    gold: Gold,
    gallery: Gallery,
    candidate: Answers,
    champion: Answers | None,
    regions: Mapping[int, NDArray[np.float32]],
) -> Iterator[Tile]:
    """Show the images of a gallery; `regions` has, by index, how much each place decided (`decisive_regions`)."""
    for index in gallery.indices:
        pixels, region = gold.test.images[index], regions.get(index)
        yield Tile(
            picture=_uri_of(pixels),
            region=_uri_of(marked(pixels, region)) if region is not None and region.any() else None,
            name=gold.test.names[index],
            true=gold.classes[gold.test.labels[index]],
            predicted=gold.classes[candidate.predicted[index]],
            confidence=float(candidate.confidence[index]),
            champion=float(champion.probabilities[index, gold.test.labels[index]]) if champion is not None else None,
        )


def suspect_tiles(gold: Gold, suspects: Sequence[Suspect]) -> Iterator[SuspectTile]:
    """Show the first of the test images whose label is probably wrong."""
    for one in suspects[:TILES]:
        yield SuspectTile(
            picture=_uri_of(gold.test.images[one.index]),
            name=one.name,
            given=gold.classes[one.label],
            suggested=gold.classes[one.suggested],
            score=one.score,
        )


def marked(pixels: NDArray[np.uint8], region: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image, uint8 [3, H, W], with colours where a region decided, and grey elsewhere.

    Args:
        pixels: uint8 [C, H, W], C 1 or 3.
        region: how much each place decided, [H, W] in 0..1; smoothed, because it is known for squares only.
    """
    smooth = gaussian_filter(region.astype(np.float64), [side / (2 * CELLS) for side in region.shape], mode="nearest")
    smooth /= max(smooth.max(), 1e-6)
    mixed: NDArray[np.uint8] = _coloured(pixels.mean(0), smooth).transpose(2, 0, 1)
    return mixed


def scale() -> str:
    """Return the colours of `marked` on a middle grey, from the least decisive to the most, for a CSS gradient."""
    steps = np.linspace(0, 1, 9)
    return ", ".join("#" + bytes(colour).hex() for colour in _coloured(np.full_like(steps, 128), steps))


def uri(png: bytes) -> str:
    """Return a PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _coloured(grey: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Lay colours for levels in 0..1 over grey values in 0..255, both [...]; returns uint8 [..., 3]."""
    opacity = OPACITY * level[..., None]
    colours = matplotlib.colormaps[COLOURS](level)[..., :3] * 255
    mixed: NDArray[np.uint8] = (grey[..., None] * (1 - opacity) + colours * opacity).round().astype(np.uint8)
    return mixed


def _uri_of(pixels: NDArray[np.uint8]) -> str:
    return uri(images.encode(_small(pixels)))


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    channels, height, width = pixels.shape
    step = max(1, height // TILE_SIDE)
    whole = pixels[:, : height // step * step, : width // step * step]
    blocks = whole.reshape(channels, height // step, step, width // step, step)
    averaged: NDArray[np.uint8] = blocks.mean((2, 4)).round().astype(np.uint8)
    return averaged
