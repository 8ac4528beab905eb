"""What a classifier is to code that only asks it, whatever runtime answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# From uint8 images [N, C, H, W], 0..255, to the probability of each class, float32 [N, K].
Forward: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
