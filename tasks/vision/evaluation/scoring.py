"""Scores a classifier: its probabilities for a set of images, the scores that follow from them, and its latency."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from tasks.errors import DataError, ModelError
from tasks.vision.data.gold import Images
from tasks.vision.devices import images_at_once
from tasks.vision.models.forward import Forward

# Faster than larger ones on a CPU. Images of 224 pixels take EfficientNet-Lite0 0.65 GB, in batches of 256 4.6 GB.
BATCH = 32
WARM_UP = 10
SINGLES = 200
# 200 answers of a tiny network take 0.05 s, and one of them may wait longer than that for a busy core. So they go on
# for a second, and count where the machine was calmest: beside eight busy loops, the p95 of two equal networks differed
# by up to 48 times over all answers, and by up to 1.6 times in the calmest twentieth.
SINGLES_SECONDS = 1.0
PARTS = 20
MANY_CLASSES = 10  # with more, it counts too whether the class is among the five most probable


@dataclass(frozen=True)
class ClassScores:
    """Scores of a set of predictions; arrays have one entry per class, in the order of the classes."""

    accuracy: float
    macro_f1: float
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]
    confusion: NDArray[np.int64]  # [true class, predicted class], counts


@dataclass(frozen=True)
class Answers:
    """One model's answers to the test images: probabilities [N, K] and the scores that follow from them."""

    probabilities: NDArray[np.float32]
    scores: ClassScores

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Label of each answer, [N]."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(1)
        return predicted

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of each answer, [N]."""
        confidence: NDArray[np.float32] = self.probabilities.max(1)
        return confidence


@dataclass(frozen=True)
class CalibrationBins:
    """Answers by their confidence, in bins of equal width from 0 to 1; sums over the images of each bin."""

    images: NDArray[np.int64]
    correct: NDArray[np.float64]
    confidence: NDArray[np.float64]


@dataclass(frozen=True)
class Latency:
    """How long answers take on this machine: one at a time where it was calmest, and in batches."""

    single_p50_ms: float
    single_p95_ms: float
    batch_images_per_second: float


def predict(forward: Forward, images: Images, shape: tuple[int, int, int], at_once: int = 1) -> NDArray[np.float32]:
    """Return the probabilities [N, K] float32 that a model gives to uint8 images [N, C, H, W].

    Args:
        forward: the model.
        images: what it classifies.
        shape: the (C, H, W) the model was made for; images of another size are resized to it, so that a champion can
            classify images prepared for its challenger.
        at_once: how many batches it answers at the same time, in as many threads.

    Raises:
        DataError: no images.
        ModelError: the answers are not finite numbers.
    """
    if len(images) == 0:
        raise DataError("there are no images to score; prepare a data set with a test split")

    batch = min(BATCH, images_at_once(math.prod(shape), torch.device("cpu")))

    def answer(start: int) -> NDArray[np.float32]:  # reads its images too: they may be on disk
        return forward(fitted(images[start : start + batch], shape))

    pool = ThreadPoolExecutor(at_once, "predict")
    try:
        probabilities = np.concatenate(list(pool.map(answer, range(0, len(images), batch))))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a stage that is asked to stop has seconds
    if not np.isfinite(probabilities).all():
        raise ModelError("the model answers with NaN or infinity; train it again with a lower learning_rate")
    return probabilities


def fit(images: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Bring uint8 images [N, C, H, W] to `shape` (C, H, W): antialiased resize, grey to RGB or back."""
    channels, height, width = shape
    if images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R 601 luma, as Pillow's "L"
        images = (images.float() * weights).sum(1, keepdim=True).round().to(torch.uint8)
    if images.shape[2:] != (height, width):
        resized = torch.nn.functional.interpolate(
            images.float(), (height, width), mode="bilinear", antialias=True, align_corners=False
        )
        images = resized.round().clamp(0, 255).to(torch.uint8)
    return images.contiguous()


def fitted(images: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Bring uint8 images [N, C, H, W] to `shape`, as `fit` does."""
    brought: NDArray[np.uint8] = fit(torch.from_numpy(images), shape).numpy()
    return brought


def score(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> ClassScores:
    """Compare true labels [N] with probabilities [N, K].

    Precision, recall and F1 of a class that is never predicted, or has no image, are 0 (as scikit-learn's
    `zero_division=0`); macro F1 is the unweighted mean over classes.

    Raises:
        ModelError: a label has no column in `probabilities`.
    """
    classes = probabilities.shape[1]
    if labels.max() >= classes:
        raise ModelError(
            f"label {int(labels.max())} is out of range: the model knows {classes} classes; train it on this data set"
        )
    predicted = probabilities.argmax(1)
    names = np.arange(classes)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=names, average=None, zero_division=0
    )
    return ClassScores(
        accuracy=float((predicted == labels).mean()),
        macro_f1=float(f1.mean()),
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        confusion=confusion_matrix(labels, predicted, labels=names),
    )


def top5_accuracy(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float | None:
    """Share of labels [N] among the five most probable classes of [N, K]; None with 10 classes or fewer."""
    classes = probabilities.shape[1]
    if classes <= MANY_CLASSES:
        return None
    return float(top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(classes)))


def calibration_bins(labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int = 15) -> CalibrationBins:
    """Sort answers, probabilities [N, K], into `bins` bins of equal width by their confidence, the largest of K."""
    confidence = probabilities.max(1).astype(np.float64)
    correct = probabilities.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return CalibrationBins(
        images=np.bincount(bin_of, minlength=bins),
        correct=np.bincount(bin_of, correct, bins).astype(np.float64),
        confidence=np.bincount(bin_of, confidence, bins).astype(np.float64),
    )


def calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Expected calibration error of probabilities [N, K]: how far confidence is from accuracy, over bins of confidence.

    The mean of |accuracy - confidence| over the bins, weighted by their images (Guo et al. 2017).
    """
    bins = calibration_bins(labels, probabilities)
    return float(np.abs(bins.correct - bins.confidence).sum() / len(labels))


def latencies(models: Sequence[tuple[Forward, tuple[int, int, int]]], images: Images) -> list[Latency]:
    """Time models on images [N, C, H, W]: one at a time, at least `SINGLES` and for `SINGLES_SECONDS`, then in batches.

    The models take turns after a warm-up, so that other work of the machine slows all of them alike; p50 and p95 are
    those of the twentieth of the turns in which they are lowest.

    Args:
        models: each with the (C, H, W) it was made for.
        images: what they classify.
    """
    batches = [fitted(np.resize(images[:BATCH], (BATCH, *images.shape[1:])), shape) for _, shape in models]
    forwards = [forward for forward, _ in models]
    for forward, batch in zip(forwards, batches, strict=True):
        for _ in range(WARM_UP):
            forward(batch[:1])
        forward(batch)
    singles: list[list[float]] = []
    until = time.perf_counter() + SINGLES_SECONDS
    while len(singles) < SINGLES or time.perf_counter() < until:
        singles.append([_seconds(f, b[:1]) for f, b in zip(forwards, batches, strict=True)])
    whole = [[_seconds(f, b) for f, b in zip(forwards, batches, strict=True)] for _ in range(3)]
    return [
        Latency(
            single_p50_ms=_calmest([turn[i] for turn in singles], 50) * 1e3,
            single_p95_ms=_calmest([turn[i] for turn in singles], 95) * 1e3,
            batch_images_per_second=BATCH / float(np.median([turn[i] for turn in whole])),
        )
        for i in range(len(models))
    ]


def _calmest(seconds: Sequence[float], percentile: float) -> float:
    """Return the percentile of that part of the measurement in which it is lowest."""
    return min(float(np.percentile(part, percentile)) for part in np.array_split(seconds, PARTS))


def _seconds(forward: Forward, images: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    forward(images)
    return time.perf_counter() - start
