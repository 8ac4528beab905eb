from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tasks.errors import RequestError
from tasks.vision.models.build import build, head_name
from tasks.vision.training import linear_probe
from tasks.vision.training.linear_probe import Features


def clusters(count: int, seed: int) -> Features:
    """Three overlapping clusters in five dimensions of very different scale."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    centres = np.random.default_rng(0).normal(size=(3, 5))
    values = (centres[labels] + random.normal(size=(count, 5))) * np.array([1, 10, 0.1, 1000, 1])
    return Features(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(labels))


def test_the_fit_is_the_logistic_regression_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = clusters(300, 1), clusters(100, 2)
    monkeypatch.setattr(linear_probe, "PENALTIES", (0.01,))
    probe = linear_probe.fit(train, validation, 3)
    mean, std = train.values.mean(0), train.values.std(0)
    # scikit-learn minimises the sum of the losses plus |w|^2 / (2 C).
    peer = LogisticRegression(C=1 / (2 * 0.01 * 300), max_iter=1000, tol=1e-8).fit(
        (train.values - mean) / std, train.labels
    )
    ours = (validation.values @ probe.weight.T + probe.bias).softmax(1)
    theirs = peer.predict_proba((validation.values - mean) / std)
    assert np.abs(ours.numpy() - theirs).max() < 1e-3


def test_the_penalty_is_the_one_with_the_smallest_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = clusters(30, 1), clusters(200, 2)
    chosen = linear_probe.fit(train, validation, 3)
    alone = []
    for penalty in linear_probe.PENALTIES:
        monkeypatch.setattr(linear_probe, "PENALTIES", (penalty,))
        alone.append(linear_probe.fit(train, validation, 3))
    best = min(alone, key=lambda probe: probe.validation_loss)
    assert chosen.penalty == best.penalty
    assert chosen.validation_loss == pytest.approx(best.validation_loss, rel=1e-3)


def test_a_feature_that_never_changes_and_a_class_without_images_do_no_harm() -> None:
    train, validation = clusters(60, 1), clusters(60, 2)
    train.values[:, 0] = validation.values[:, 0] = 7
    probe = linear_probe.fit(train, validation, 4)
    assert probe.weight.shape == (4, 5)
    assert probe.weight.isfinite().all()
    assert probe.validation_accuracy > 0.5


def test_the_same_features_give_the_same_bits() -> None:
    first, second = (linear_probe.fit(clusters(60, 1), clusters(60, 2), 3) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


@pytest.mark.parametrize("architecture", ["fast_cnn", "mobilenet_v3_small", "resnet18", "efficientnet_lite0"])
def test_head_and_features_make_the_networks_logits(architecture: str) -> None:
    torch.manual_seed(0)
    network = build(architecture, 3, (3, 32, 32))
    head = linear_probe.head_of(network, head_name(network, 3))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    found = linear_probe.join(list(linear_probe.features(network, head, iter([(images, labels)]))))
    with torch.inference_mode():
        assert torch.allclose(head(found.values), network.eval()(images), atol=1e-5)
    assert torch.equal(found.labels, labels)
    assert not head._forward_pre_hooks


def test_a_network_without_a_linear_head_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    assert head_name(network, 4) == ""
    with pytest.raises(RequestError, match="does not end with a linear layer; set finetune='full'"):
        linear_probe.head_of(network, "")
