from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.vision.models.classifier import Enlargement
from tasks.vision.models.preprocessing import Preprocessing
from tasks.vision.training.augment import ImageTensor
from tasks.vision.training.validation import predict, validate

CPU = torch.device("cpu")


class Spy(nn.Module):
    """Answers with the means of the channels, and keeps how many images it saw at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return images.mean((2, 3))


def images(side: int, enlarged: int | None = None) -> ImageTensor:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, side, side), dtype=np.uint8)
    enlarge = None if enlarged is None else Enlargement(enlarged)
    return ImageTensor(pixels, np.arange(50) % 3, Preprocessing((0.5,) * 3, (0.2,) * 3, enlarge), CPU)


@pytest.mark.parametrize(("side", "enlarged", "most"), [(32, None, 50), (192, None, 16), (32, 192, 16)])
def test_few_images_are_looked_at_together_where_the_network_takes_large_ones(
    side: int, enlarged: int | None, most: int
) -> None:
    spy, some = Spy(), images(side, enlarged)
    found = predict(spy, some)
    assert sum(spy.sizes) == 50
    assert max(spy.sizes) <= most
    every, labels = some.batch(torch.arange(50))
    torch.testing.assert_close(found, every.mean((2, 3)).softmax(1))
    loss, accuracy = validate(spy, some)
    assert loss == pytest.approx(nn.functional.cross_entropy(every.mean((2, 3)), labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((every.mean((2, 3)).argmax(1) == labels).float().mean().item())
