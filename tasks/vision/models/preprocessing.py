"""What happens to the pixels of an image before the network sees them: normalised, and enlarged if it wants that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tasks.contract.networks import Network, Normalisation, find
from tasks.errors import DataError
from tasks.vision.models.classifier import Enlargement

MEAN, STD = "mean", "std"  # names of the tensors of a `Classifier` that hold them


@dataclass(frozen=True)
class Preprocessing:
    """Mean and standard deviation of each channel, of pixels scaled to 0..1; and how images are enlarged, if at all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    enlarge: Enlargement | None = None

    @classmethod
    def of(
        cls,
        architecture: str,
        shape: tuple[int, int, int],
        statistics: Normalisation,
        trained: Mapping[str, Tensor] | None = None,
        side: int | None = None,
    ) -> Preprocessing:
        """Decide how images are prepared for a network.

        Args:
            architecture: the network.
            shape: channels, height and width of the images.
            statistics: of the training images: for a network that expects nothing else.
            trained: the weights that it starts from; those of a `Classifier` say how its images were normalised.
            side: the side of the images that the network is to see, in pixels; None: as they are.

        Raises:
            DataError: the network expects another number of channels, or `side` is smaller than the images.
        """
        network, (channels, height, width) = find(architecture), shape
        expected = _expected(network, channels, statistics, trained)
        if len(expected.mean) != channels:
            raise DataError(
                f"model={architecture!r} takes images with {len(expected.mean)} channels, and these have {channels}; "
                "choose another model or data set"
            )
        if side is not None and side < max(height, width):
            raise DataError(f"input_side={side} is smaller than the images, {height}x{width}; set image_size={side}")
        enlarge = None
        if side is not None and (height, width) != (side, side):
            enlarge = Enlargement(side)
        return cls(tuple(expected.mean), tuple(expected.std), enlarge)


def _expected(
    network: Network, channels: int, statistics: Normalisation, trained: Mapping[str, Tensor] | None
) -> Normalisation:
    if network.normalisation is not None:
        return network.normalisation
    if trained is None:
        return statistics
    if MEAN in trained and STD in trained:
        own = Normalisation(*(tuple(trained[name].flatten().tolist()) for name in (MEAN, STD)))
        return own if len(own.mean) == channels else statistics
    if network.family == "timm":
        from tasks.vision.models import timm_networks  # imports timm: only for its networks

        return timm_networks.normalisation(network.constructor, channels)
    return statistics
