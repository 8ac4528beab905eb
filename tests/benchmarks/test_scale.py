"""The page of the benchmark of several workers, and what the script that it is compared with makes of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import scale, scale_shards
from benchmarks.scale_script import Photos

RATES = {
    "one worker": [60.0, 50.0, 70.0],
    "two workers": [90.0, 100.0, 119.0],
    "Ray Train script": [45.0, 50.0, 40.0],
}
LOSSES = {"two workers": [1e-7, 2.5e-5, 2e-5], "one worker with two threads": [0.0, 1e-5, 3e-3]}


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "cifar").mkdir()
    return str(tmp_path / "cifar")


def test_the_report_compares_medians_and_rounds(source: str) -> None:
    options = scale.parsed(["--source", source])
    text = scale.report({("resnet18", 32): RATES}, LOSSES, 510, options)
    assert "| `resnet18`, 32 pixels, two workers | 90.0 | 100.0 | 119.0 |" in text
    assert "two workers / one worker **1.67** (target: 1.7; round by round: 1.50, 2.00, 1.70)" in text
    assert "two workers / Ray Train script **2.22** (round by round: 2.00, 2.00, 2.98)" in text
    assert "| two workers | 1.0e-07 | 2.5e-05 | 2.0e-05 |" in text
    assert "two workers differ by **2.5e-05** at most (target: 1e-04)" in text
    assert "| workers | 1 | 2 | 4 | 8 | 16 | 64 |" in text
    assert "510 images, batches of 128, float32, one thread a worker; n = 3 trainings of 3 epochs" in text


def test_workers_share_the_shards() -> None:
    assert scale_shards.fetched(1, 32, 60_000) == 1
    assert 1 < scale_shards.fetched(4, 32, 60_000) < 2


def test_the_first_epoch_is_not_counted() -> None:
    assert scale.counted([1.0, 30.0, 60.0]) == pytest.approx(40)  # as many images in a second as in two


def test_losses_are_compared_epoch_by_epoch_as_shares() -> None:
    assert scale.shares([2.0, 1.0, 0.5], [2.0, 0.99, 0.51]) == pytest.approx([0, 0.01, 0.02])


def test_a_loss_that_is_missing_is_noticed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        scale.shares([2.0, 1.0], [2.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "2"], "--rounds 2 is too few"),
        (["--epochs", "1"], "--epochs 1 leaves none after the first"),
        (["--batch", "63"], "--batch 63 cannot be halved"),
        (["--images", "100"], "--images 100 fill no --batch of 128"),
        (["--source", "missing.tar.gz"], "--source missing.tar.gz does not exist"),
    ],
)
def test_options_that_would_measure_nothing_are_refused(
    arguments: list[str], message: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        scale.parsed(["--source", source, *arguments])
    assert message in capsys.readouterr().err


def test_one_core_is_refused(source: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "available_cpus", lambda: 1)
    with pytest.raises(SystemExit):
        scale.parsed(["--source", source])
    assert "1 core is too few for 2 workers" in capsys.readouterr().err


@pytest.mark.parametrize("side", [32, 48])
def test_the_script_gives_the_network_normalised_images_of_its_side(side: int) -> None:
    images = np.full((3, 32, 32, 3), 255, dtype=np.uint8)
    photos = Photos(images, np.arange(3), side, (0.5,) * 3, (0.25,) * 3)
    image, label = photos[2]
    assert (len(photos), label) == (3, 2)
    assert image.shape == (3, side, side)
    assert torch.equal(image.unique()[-1:], torch.tensor([2.0]))  # white; what a crop moved in is darker
