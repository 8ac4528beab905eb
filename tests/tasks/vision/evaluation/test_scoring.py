from __future__ import annotations

import threading
import time
from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tasks.errors import DataError, ModelError
from tasks.vision.evaluation.evaluation_plots import confusion_figure, per_class_figure
from tasks.vision.evaluation.scoring import (
    BATCH,
    calibration_bins,
    calibration_error,
    fit,
    latencies,
    predict,
    score,
    top5_accuracy,
)
from tasks.vision.models.classifier import forward_of


class Brightness(torch.nn.Module):
    """Two classes: the share of white in an image, and the rest."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        white = images.float().mean((1, 2, 3)) / 255
        return torch.stack([1 - white, white], 1)


def one_hot(classes: list[int], count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[classes]


def test_score_by_hand() -> None:
    scores = score(np.array([0, 0, 1, 1, 2]), one_hot([0, 1, 1, 1, 0], 3))
    assert scores.accuracy == 3 / 5
    assert scores.precision.tolist() == [1 / 2, 2 / 3, 0]
    assert scores.recall.tolist() == [1 / 2, 1, 0]
    assert scores.f1 == pytest.approx([1 / 2, 4 / 5, 0])
    assert scores.macro_f1 == pytest.approx((1 / 2 + 4 / 5) / 3)
    assert scores.support.tolist() == [2, 2, 1]
    assert scores.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_a_class_without_images_counts_as_zero() -> None:
    assert score(np.array([0, 0]), one_hot([0, 0], 2)).macro_f1 == 0.5


def test_a_label_the_model_does_not_know() -> None:
    with pytest.raises(ModelError, match=r"label 3.*2 classes"):
        score(np.array([0, 3]), one_hot([0, 1], 2))


def test_what_ends_predict_does_not_wait_for_the_batches_of_other_threads() -> None:
    """A stage that is asked to stop ends the workers that other threads wait for."""
    release = threading.Event()
    waited: list[bool] = []

    def forward(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not batch.any():
            raise ModelError("it cannot be opened there")
        waited.append(release.wait(60))
        return np.zeros((len(batch), 2), np.float32)

    images = np.repeat(np.arange(4), BATCH)[:, None, None, None].astype(np.uint8)
    with pytest.raises(ModelError, match="it cannot be opened there"):
        predict(forward, images, (1, 1, 1), 2)
    assert not waited
    release.set()


def test_predict_goes_through_batches_in_order() -> None:
    values = np.arange(2 * BATCH + 3) % 256
    images = np.broadcast_to(values[:, None, None, None], (len(values), 1, 8, 8)).astype(np.uint8)
    probabilities = predict(forward_of(Brightness()), images, (1, 8, 8))
    assert probabilities[:, 1] == pytest.approx(values / 255, abs=1e-6)
    assert probabilities.dtype == np.float32


def test_predict_reads_a_batch_when_a_thread_is_free_to_answer_it() -> None:
    """Test images on disk may be more than memory holds."""
    read = answered = 0

    class OnDisk:
        shape, dtype, nbytes = (100 * BATCH, 1, 2, 2), np.dtype(np.uint8), 0

        def __len__(self) -> int:
            return self.shape[0]

        def __getitem__(self, index: slice) -> NDArray[np.uint8]:
            nonlocal read
            read += 1
            assert read - answered <= 2
            return np.zeros((BATCH, 1, 2, 2), np.uint8)

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal answered
        answered += 1
        return np.ones((len(images), 2), np.float32)

    assert len(predict(forward, OnDisk(), (1, 2, 2), at_once=2)) == 100 * BATCH


def test_predict_refuses_nothing_and_nonsense() -> None:
    with pytest.raises(DataError, match="no images"):
        predict(forward_of(Brightness()), np.zeros((0, 1, 8, 8), np.uint8), (1, 8, 8))

    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 2), float("nan"))

    with pytest.raises(ModelError, match="NaN"):
        predict(forward_of(Broken()), np.zeros((2, 1, 8, 8), np.uint8), (1, 8, 8))


def test_fit_leaves_fitting_images_alone() -> None:
    images = torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(fit(images, (3, 8, 8)), images)


@pytest.mark.parametrize(("before", "after"), [((1, 8, 8), (3, 16, 16)), ((3, 16, 16), (1, 8, 8))])
def test_fit_keeps_the_brightness(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    images = torch.full((2, *before), 200, dtype=torch.uint8)
    fitted = fit(images, after)
    assert fitted.shape == (2, *after)
    assert fitted.dtype == torch.uint8
    assert (fitted.int() - 200).abs().max() <= 1


class Slow(Brightness):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002)
        return super().forward(images)


def test_latencies_are_those_of_each_model() -> None:
    shape = (1, 8, 8)
    sides = [(forward_of(Brightness()), shape), (forward_of(Slow()), (3, 4, 4))]
    fast, slow = latencies(sides, np.zeros((3, 1, 8, 8), np.uint8))
    assert 0 < fast.single_p50_ms <= fast.single_p95_ms
    assert 2 < slow.single_p50_ms <= slow.single_p95_ms
    assert fast.single_p50_ms < slow.single_p50_ms
    assert fast.batch_images_per_second > slow.batch_images_per_second > 0


class Disturbed(Brightness):
    """Waits often at first, as beside other work that then ends."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        if self.asked < 80:
            time.sleep(0.02)
        return super().forward(images)


def test_other_work_in_a_part_of_the_measurement_does_not_count() -> None:
    [found] = latencies([(forward_of(Disturbed()), (1, 8, 8))], np.zeros((3, 1, 8, 8), np.uint8))
    assert found.single_p95_ms < 20


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    labels = np.array([0] * 10)
    sure = np.tile(np.float32([0.9, 0.1]), (10, 1))
    assert calibration_error(labels, sure) == pytest.approx(0.1)  # right always, sure to nine tenths
    assert calibration_error(np.array([0] * 9 + [1]), sure) == pytest.approx(0, abs=1e-7)
    assert calibration_error(np.array([1] * 10), one_hot([0] * 10, 2)) == 1


def test_bins_of_confidence_hold_every_answer_once() -> None:
    probabilities = np.float32([[1.0, 0.0], [0.5, 0.5], [0.51, 0.49], [0.05, 0.95]])
    bins = calibration_bins(np.array([0, 1, 0, 1]), probabilities, bins=10)
    assert bins.images.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]  # 1.0 belongs to the last, as 0.95 does
    assert bins.correct.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert bins.confidence[[5, 9]] == pytest.approx([1.01, 1.95])


def test_calibration_errors_of_different_confidence_do_not_cancel() -> None:
    probabilities = np.float32([[0.6, 0.4]] * 10 + [[0.9, 0.1]] * 10)
    labels = np.array([0] * 9 + [1] + [0] * 6 + [1] * 4)  # 0.9 where sure to 0.6, 0.6 where sure to 0.9
    assert calibration_error(labels, probabilities) == pytest.approx(0.3)


def test_a_class_name_is_no_formula() -> None:
    scores = score(np.array([0, 1]), one_hot([0, 1], 2))
    for draw in (confusion_figure, per_class_figure):
        draw(scores, [r"$\nonsense$", "b"]).savefig(BytesIO())


@pytest.mark.parametrize("count", [2, 10, 100])
def test_figures_name_the_classes(count: int) -> None:
    labels = np.arange(count).repeat(2)
    scores = score(labels, one_hot(labels.tolist(), count))
    classes = [f"class {i}" for i in range(count)]
    confusion = confusion_figure(scores, classes)
    assert [tick.get_text() for tick in confusion.axes[0].get_yticklabels()] == classes
    bars = per_class_figure(scores, classes)
    assert len(bars.axes[0].get_yticklabels()) == min(count, 40)


def test_top_5_accuracy_needs_more_than_10_classes() -> None:
    probabilities = np.tile(np.linspace(1, 2, 11, dtype=np.float32), (11, 1))
    probabilities /= probabilities.sum(1, keepdims=True)
    labels = np.arange(11)  # of the same order for every image, so five of the labels are among the first five
    assert top5_accuracy(labels, probabilities) == pytest.approx(5 / 11)
    assert top5_accuracy(np.array([10, 10]), probabilities[:2]) == 1  # most classes without an image
    assert top5_accuracy(labels[:10], probabilities[:10, :10]) is None
