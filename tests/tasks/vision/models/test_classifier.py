from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, digest, parameter_counts


def test_classifier_normalises_pixels_and_returns_probabilities() -> None:
    network = build("fast_cnn", 4, (3, 16, 16)).eval()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    probabilities = Classifier(network, mean, std).eval()(pixels)
    by_hand = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, network(by_hand).softmax(1))


def test_digest_sees_one_changed_weight_a_dtype_and_another_shape_of_the_same_bytes() -> None:
    model = nn.Linear(2, 3, bias=False)
    same, changed, reshaped = copy.deepcopy(model), copy.deepcopy(model), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        changed.weight[0, 0] += 1e-6
        reshaped.weight.copy_(model.weight.reshape(2, 3))
    others = {digest(changed), digest(reshaped), digest(copy.deepcopy(model).double())}
    assert digest(model) == digest(same)
    assert len(others | {digest(model)}) == 4


def test_digest_does_not_depend_on_memory_layout() -> None:
    network = build("fast_cnn", 2, (3, 8, 8))
    expected = digest(network)
    assert digest(network.to(memory_format=torch.channels_last)) == expected


def test_exported_classifier_has_the_same_digest_and_answers_for_any_batch_size(tmp_path: Path) -> None:
    model = Classifier(build("fast_cnn", 3, (1, 8, 8)), [0.3], [0.2]).eval()
    example = (torch.zeros(4, 1, 8, 8, dtype=torch.uint8),)
    exported = torch.export.export(model, example, dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    torch.export.save(exported, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    assert digest(loaded) == digest(model)
    for count in (1, 7, 256):
        pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8)
        torch.testing.assert_close(loaded(pixels), model(pixels))


def test_parameters_are_counted_by_whether_they_learn() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    assert parameter_counts(model) == {"total": 13, "trainable": 4, "frozen": 9}
