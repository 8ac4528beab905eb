"""A small convolutional network for small images on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from tasks.vision.models.stem import stem_stride


class FastCNN(nn.Module):
    """Five convolutions in three stages: 0.3 million parameters, fast on a CPU.

    Resolution is halved between stages, and once more in the first convolution for images of over `SMALL_SIDE` pixels.
    Features are pooled by their maximum: on a few pixels, whether a stroke is there says more than how much of it.
    """

    def __init__(self, classes: int, channels: int, side: int) -> None:
        """Make the layers for `channels` input channels and square images of `side` pixels."""
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(channels, 32, stride=stem_stride(side)),
            *_convolution(32, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 64),
            *_convolution(64, 128),
            nn.MaxPool2d(2),
            *_convolution(128, 128),
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] for normalised float images [N, C, H, W]."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
