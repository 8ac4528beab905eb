"""A network whose forward and backward pass are each one command for an NVIDIA GPU, recorded as CUDA graphs.

A training step is about a thousand short kernels. Python starts them one after another and takes several times as long
as the GPU needs to run them; a recorded pass is started as a whole. Measured in docs/benchmarks/transfer.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

log = logging.getLogger("tasks.train")


class Recorded:
    """Calls a network in training. The first batch is recorded; others of its shape run as the recording.

    Weights stay where they are and may change in place, as optimisers and `load_state_dict` change them. Everything
    else is as it was at the first call: the network's mode, which parameters get gradients, the precision.
    """

    def __init__(self, network: nn.Module) -> None:
        """Wrap `network`, which is on a GPU; nothing in it is changed."""
        self._network = network
        self._shape: torch.Size | None = None
        self._run: Callable[[Tensor], Tensor] = network

    def __call__(self, images: Tensor) -> Tensor:
        """Return what the network makes of images [B, C, H, W]; valid until the next call."""
        if self._shape is None:
            self._shape = images.shape
            self._record(images)
        return self._run(images) if images.shape == self._shape else self._network(images)

    def _record(self, images: Tensor) -> None:
        """Record the passes. A network that waits for the GPU, or needs more memory than is left, runs as it is."""
        before = [buffer.clone() for buffer in self._network.buffers()]  # batch normalisation counts the trial runs
        whole, example = _Whole(self._network), (images.clone(),)
        # Recording takes place in another stream, which is no cause for the warning that torch would give.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        try:
            recorded = torch.cuda.make_graphed_callables(whole, example, allow_unused_input=True)
            self._run = cast(Callable[[Tensor], Tensor], recorded)
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.info("training without CUDA graphs, more slowly: %s", reason)
        with torch.no_grad():
            for buffer, value in zip(self._network.buffers(), before, strict=True):
                buffer.copy_(value)


class _Whole(nn.Module):
    """torch replaces `forward` of the module that it records; copies of the network itself must keep theirs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.network(images)
        return output
