"""Distillation: a network learns from the answers of a trained classifier, its teacher, besides the labels.

Hinton et al. 2015, arXiv:1503.02531. The teacher answers for each batch as the network sees it, crops and erased parts
included: answers computed once for whole images teach less (Beyer et al. 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.vision.models.classifier import Classifier, digest
from tasks.vision.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Distillation:
    """From whom a network learns, and how much.

    Attributes:
        teacher: a trained classifier, for the same classes and channels.
        temperature: what the logarithms of both networks' probabilities are divided by before they are compared: the
            higher, the more the less likely classes count.
        share: of the loss that asks for the teacher's answers, 0 to 1; the rest asks for the labels.
    """

    teacher: Classifier
    temperature: float
    share: float

    @property
    def identity(self) -> list[str | float]:
        """What a training depends on."""
        return [digest(self.teacher), self.temperature, self.share]


class Teacher(nn.Module):
    """A teacher at work: it answers for the images that a network in training sees."""

    mean: Tensor
    std: Tensor

    def __init__(self, distillation: Distillation, preprocessing: Preprocessing) -> None:
        """Prepare the teacher for images that were normalised, and perhaps enlarged, for another network."""
        super().__init__()
        self.classifier = distillation.teacher.eval().requires_grad_(False)
        self._temperature, self._share = distillation.temperature, distillation.share
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] for images [B, C, H, W] as the network in training gets them."""
        teacher, enlarge = self.classifier, self.classifier.enlarge
        pixels = images * self.std + self.mean
        side = pixels.shape[2:] if enlarge is None else (enlarge.side, enlarge.side)
        if pixels.shape[2:] != side:
            smaller = pixels.shape[2] > side[0]
            pixels = functional.interpolate(pixels, side, mode="bilinear", align_corners=False, antialias=smaller)
        logits: Tensor = teacher.network((pixels - teacher.mean) / teacher.std)
        return logits.float()

    def loss(self, images: Tensor, logits: Tensor, labels_loss: Tensor) -> Tensor:
        """Return the loss of a batch: what the labels ask for and what the teacher asks for, by their shares.

        Args:
            images: as the network got them.
            logits: what it made of them, [B, classes].
            labels_loss: its loss by the labels, [].
        """
        temperature = self._temperature
        wanted = (self(images) / temperature).log_softmax(1)
        given = (logits.float() / temperature).log_softmax(1)
        difference = functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        # Its gradients shrink with the square of the temperature.
        return (1 - self._share) * labels_loss + self._share * temperature**2 * difference
