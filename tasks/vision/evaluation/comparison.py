"""Two models on the same images: is one better, and by how much? Paired, since both answered every image."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from statsmodels.stats.contingency_tables import mcnemar

from tasks.gate.evidence import Comparison


def compare(candidate: NDArray[np.bool_], champion: NDArray[np.bool_], level: float, number: int) -> Comparison:
    """Compare which images each of two models classifies correctly.

    The p-value is the exact McNemar test's (McNemar 1947; binomial on the images that only one has right), one-sided.
    The interval is the percentile bootstrap of the accuracy gap over pairs (Efron and Tibshirani 1993, ch. 13), from
    its `level` to its `1 - level` quantile: the ideal one, of infinitely many resamples (see `_resampled`).

    Args:
        candidate: [N], whether the candidate classifies each image correctly.
        champion: [N], the same for the champion.
        level: one-sided chance of error allowed.
        number: number of this comparison among those with the same champion, from 1; stored with the figures.
    """
    gained, lost = int((candidate & ~champion).sum()), int((champion & ~candidate).sum())
    both, neither = int((candidate & champion).sum()), int((~candidate & ~champion).sum())
    images = len(candidate)
    two_sided = float(mcnemar([[both, gained], [lost, neither]], exact=True).pvalue)
    below = np.cumsum(_resampled(gained, lost, images))
    low, high = (int(np.searchsorted(below, share)) - images for share in (level, 1 - level))
    return Comparison(
        images=images,
        gained=gained,
        lost=lost,
        p_value=two_sided / 2 if gained > lost else 1.0,
        low=low / images,
        high=high / images,
        level=level,
        look=number,
    )


def _resampled(gained: int, lost: int, images: int) -> NDArray[np.float64]:
    """Probability of each net gain from -images to images, when `images` pairs are drawn from these with replacement.

    A drawn pair adds 1, -1 or 0; the distribution of the sum is the `images`-fold convolution of one pair's, which is
    a power in the frequency domain.
    """
    one = np.zeros(scipy.fft.next_fast_len(2 * images + 1))
    one[0], one[1], one[-1] = (images - gained - lost) / images, gained / images, lost / images
    whole = scipy.fft.ifft(scipy.fft.fft(one) ** images).real
    return np.concatenate([whole[-images:], whole[: images + 1]]).clip(0)
