"""The linear probe: the last layer of a network, fitted to features that the layers before it computed once.

It is a multinomial logistic regression, found exactly and in seconds, so it needs no learning rate and no epochs. How
strongly its weights are held back is chosen on the validation images (as in Radford et al., arXiv:2103.00020, A.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.errors import RequestError

# Strengths of the penalty on squared weights of standardised features, from strong to weak. The search ends where
# validation gets worse.
PENALTIES = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
ITERATIONS = 200
SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class Features:
    """What the layers before the head make of images.

    Attributes:
        values: float32 [N, D].
        labels: int64 [N].
    """

    values: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Probe:
    """A fitted last layer.

    Attributes:
        weight: float32 [classes, D].
        bias: float32 [classes].
        penalty: the strength that was chosen.
        train_loss: mean cross-entropy on the training features, without the penalty.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


def head_of(network: nn.Module, name: str) -> nn.Linear:
    """Return the last layer of a network.

    Raises:
        RequestError: the network does not end with a linear layer.
    """
    if not name:
        raise RequestError("the network does not end with a linear layer; set finetune='full'")
    head = network.get_submodule(name)
    assert isinstance(head, nn.Linear)  # noqa: S101  # `head_name` looks for one
    return head


@torch.inference_mode()
def features(network: nn.Module, head: nn.Linear, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Features]:
    """Yield, batch by batch, what reaches `head` when images [B, C, H, W] go through the network, with labels [B]."""
    network.eval()
    caught: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    try:
        for images, labels in batches:
            network(images)
            yield Features(caught.pop().float().flatten(1), labels)
    finally:
        hook.remove()


def join(parts: list[Features]) -> Features:
    """Put batches together."""
    # Cloned outside inference mode, so that gradients can flow through what is computed from them.
    return Features(torch.cat([p.values for p in parts]).clone(), torch.cat([p.labels for p in parts]).clone())


def fit(train: Features, validation: Features, classes: int, weights: Tensor | None = None) -> Probe:
    """Fit a linear layer to `train`, with the penalty that has the smallest loss on `validation`.

    Features are standardised while fitting, so that one penalty suits all of them; the result is for features as they
    are. `weights` [classes] say how much the images of each class count.
    """
    mean, std = _scale(train)
    scaled, held_out = (train.values - mean) / std, (validation.values - mean) / std
    start = torch.zeros(classes, scaled.shape[1] + 1, device=scaled.device)
    best: Probe | None = None
    for penalty in PENALTIES:
        start = _minimise(start, scaled, train.labels, penalty, weights)
        weight, bias = _unscaled(start, mean, std)
        train_loss, train_accuracy = _measure(start, scaled, train.labels)
        loss, accuracy = _measure(start, held_out, validation.labels)
        if best is not None and loss >= best.validation_loss:
            break
        best = Probe(weight, bias, penalty, train_loss, train_accuracy, loss, accuracy)
    assert best is not None  # noqa: S101  # there are penalties
    return best


def refit(probe: Probe, everything: Features, classes: int, weights: Tensor | None = None) -> Probe:
    """Fit once more, with the penalty that was chosen, to the training and validation images together.

    What was measured stays as it was: it is of the layer that had not seen the validation images.
    """
    mean, std = _scale(everything)
    start = torch.zeros(classes, everything.values.shape[1] + 1, device=everything.values.device)
    layer = _minimise(start, (everything.values - mean) / std, everything.labels, probe.penalty, weights)
    weight, bias = _unscaled(layer, mean, std)
    return replace(probe, weight=weight, bias=bias)


def fit_again(probe: Probe, some: Features, others: Tensor, weights: Tensor | None = None) -> Tensor:
    """Fit the layer to `some` images alone; return its probabilities [N, classes] for features [N, D] of others."""
    mean, std = _scale(some)
    start = torch.cat([probe.weight * std, (probe.bias + probe.weight @ mean).unsqueeze(1)], dim=1)
    layer = _minimise(start, (some.values - mean) / std, some.labels, probe.penalty, weights)
    return _logits(layer, (others - mean) / std).softmax(1)


def _scale(features: Features) -> tuple[Tensor, Tensor]:
    return features.values.mean(0), features.values.std(0).clamp_min(SMALLEST_STD)


def _unscaled(layer: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias for features as they are, of a layer for standardised ones."""
    weight = layer[:, :-1] / std
    return weight, layer[:, -1] - weight @ mean


def _minimise(start: Tensor, values: Tensor, labels: Tensor, penalty: float, weights: Tensor | None) -> Tensor:
    """Minimise cross-entropy plus penalty, from the solution for a stronger penalty, which is near."""
    layer = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([layer], max_iter=ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    optimizer.step(lambda: penalised_loss(layer, values, labels, penalty, weights))  # type: ignore[no-untyped-call]
    return layer.detach()


def penalised_loss(
    layer: Tensor, values: Tensor, labels: Tensor, penalty: float, weights: Tensor | None = None
) -> Tensor:
    """Return what is minimised, the cross-entropy plus the penalty, with its gradient in `layer.grad`."""
    layer.grad = None
    value = functional.cross_entropy(_logits(layer, values), labels, weights)  # over all images: their mean is 1
    value = value + penalty * layer[:, :-1].square().sum()
    value.backward()  # type: ignore[no-untyped-call]
    return value


def _logits(layer: Tensor, values: Tensor) -> Tensor:
    return functional.linear(values, layer[:, :-1], layer[:, -1])


def _measure(layer: Tensor, values: Tensor, labels: Tensor) -> tuple[float, float]:
    logits = _logits(layer, values)
    return functional.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
