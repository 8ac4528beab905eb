"""Replicas of a network in several processes, which train on shares of the same batches as if they were one.

Every replica knows the whole batch. It draws the same random numbers for it as the others, and takes its share of both;
the gradients of all shares are averaged. So order, batches and learning rates are those of one process, and losses
differ by rounding, and by what is done within a share: dropout, MixUp's and CutMix's pairs, random crops, and batch
normalisation unless it is synchronised.

One process is a replica of its own: then nothing here changes or costs anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tasks.errors import RequestError
from tasks.vision.training.sync_batch_norm import synchronize

FEWEST_IMAGES = 2  # in a pass through the network: batch normalisation needs as many
AGREED_EVERY = 16  # batches: to agree costs a message among all replicas, on a GPU a wait for it too


@dataclass(frozen=True)
class Replicas:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0. The first one tells what the training tells.
        size: how many there are.
        sync_batch_norm: whether batch normalisation uses the statistics of the whole batch.
    """

    rank: int = 0
    size: int = 1
    sync_batch_norm: bool = False

    @classmethod
    def joined(cls, *, sync_batch_norm: bool = False) -> Replicas:
        """Return those of torch's process group, which the caller has set up."""
        return cls(distributed.get_rank(), distributed.get_world_size(), sync_batch_norm)

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    def share(self, whole: Tensor, dim: int = 0) -> Tensor:
        """Return this replica's part of what belongs to a whole batch; sizes differ by one at most."""
        return whole if self.alone else whole.tensor_split(self.size, dim)[self.rank]

    def weight(self, own: int, whole: int) -> float:
        """Return the factor for the mean over `own` images, so that the average of all is the mean over the `whole`."""
        return 1.0 if self.alone else own * self.size / whole

    @contextmanager
    def own_random(self) -> Iterator[None]:
        """Draw from random numbers of this replica alone while the block runs; those that all share go on after it.

        For what is drawn image by image: it cannot be drawn for the images of others without computing them.
        """
        if self.alone:
            yield
            return
        seed = int(torch.randint(2**62, ()).item())
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):  # type: ignore[no-untyped-call]
            torch.manual_seed(seed + self.rank)
            yield

    def total(self, own: Tensor) -> Tensor:
        """Return the sum of a tensor over all replicas."""
        if not self.alone:
            own = own.clone()
            distributed.all_reduce(own)
        return own

    def totals(self, *own: float, device: torch.device) -> tuple[float, ...]:
        """Return the sums of numbers over all replicas, which meet on `device`."""
        return own if self.alone else tuple(self.total(torch.tensor(own, dtype=torch.float64, device=device)).tolist())

    def largest(self, own: float, device: torch.device) -> float:
        """Return the largest of one number of each replica; they meet on `device`."""
        if self.alone:
            return own
        most = torch.tensor(own, device=device)
        distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
        return most.item()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Set floating-point tensors to their mean over all replicas, in place, and others to those of the first."""
        if self.alone:
            return
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        if floats:
            flat = torch.cat([tensor.detach().flatten() for tensor in floats])
            distributed.all_reduce(flat)
            parts = torch.split(flat / self.size, [tensor.numel() for tensor in floats])
            for tensor, part in zip(floats, parts, strict=True):
                tensor.detach().copy_(part.view_as(tensor))
        for tensor in tensors:
            if not tensor.is_floating_point():
                distributed.broadcast(tensor, 0)

    def gather(self, own: Tensor) -> Tensor:
        """Return the parts [b, ...] of all replicas as one, [B, ...], in the order of `share`."""
        if self.alone:
            return own
        sizes = self.total(torch.eye(self.size, dtype=torch.int64, device=own.device)[self.rank] * len(own))
        parts = [own.new_empty((size, *own.shape[1:])) for size in sizes.tolist()]
        for rank, part in enumerate(parts):
            if rank == self.rank:
                part.copy_(own)
            distributed.broadcast(part, rank)
        return torch.cat(parts)

    def any(self, own: bool, batch: int, device: torch.device) -> bool:
        """Return whether it holds for any replica, to all the same; they ask every `AGREED_EVERY` batches only."""
        if self.alone:
            return own
        if batch % AGREED_EVERY:
            return False
        return bool(self.total(torch.tensor(float(own), device=device)).item() > 0)

    def forward(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return what calls `network` in training: then its gradients are averaged over all replicas.

        What it keeps besides weights, such as the statistics of batch normalisation, stays this replica's own.
        """
        if self.alone:
            return network
        if self.sync_batch_norm:
            synchronize(network)
        return DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def own_gradients(self, forward: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """Add up the gradients of passes in the block on this replica; the first pass after it averages the sums.

        Args:
            forward: what `forward` returned.
        """
        return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


def require_enough(workers: int, batch: int, validation: int, micro_batches: int = 1, field: str = "workers") -> None:
    """Require that each of `workers` replicas gets images of every batch, for each of its passes.

    Args:
        workers: how many there will be.
        batch: images of the smallest batch.
        validation: validation images.
        micro_batches: in how many parts each replica passes its share of a batch through the network.
        field: of the request, which says how many workers.

    Raises:
        RequestError: there are too few.
    """
    most = min(batch // FEWEST_IMAGES, validation)
    if workers > 1 and workers > most:
        raise RequestError(
            f"{field}={workers} is too many for batches of {batch} images and {validation} validation images: each "
            f"worker needs {FEWEST_IMAGES} of a batch; set {field} to at most {max(1, most)}, or raise batch_size"
        )
    share = batch // workers
    if micro_batches > 1 and micro_batches > share // FEWEST_IMAGES:
        whose = f"each worker's share of a batch, {share} images" if workers > 1 else f"a batch of {share} images"
        raise RequestError(
            f"micro_batches={micro_batches} is too many for {whose}: each part needs {FEWEST_IMAGES}; "
            f"set micro_batches to at most {max(1, share // FEWEST_IMAGES)}, or raise batch_size"
        )
