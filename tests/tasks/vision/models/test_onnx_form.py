from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tasks.contract.networks import NETWORKS
from tasks.errors import ModelError
from tasks.vision.models import onnx_form
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, Enlargement

Exported = Callable[[torch.nn.Module, int, int], Path]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """Exports a classifier by torch.export, as MLflow does; the `.pt2` file."""

    def export(classifier: torch.nn.Module, channels: int, side: int) -> Path:
        example = torch.zeros(4, channels, side, side, dtype=torch.uint8)
        program = torch.export.export(
            classifier.eval(), (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}
        )
        torch.export.save(program, tmp_path / "model.pt2")
        return tmp_path / "model.pt2"

    return export


QUICK = {"fast_cnn": (8, 8), "mobilenet_v3_small": (32, 32), "resnet18": (32, 32), "efficientnet_lite0": (32, 64)}
SLOW = sorted(set(NETWORKS) - set(QUICK))


@pytest.mark.parametrize(
    ("name", "side", "enlarged"),
    [
        *((name, *sides) for name, sides in QUICK.items()),
        *(pytest.param(name, 64, 224, marks=pytest.mark.long) for name in SLOW),
    ],
)
def test_both_forms_answer_alike_for_any_number_of_images(
    exported: Exported, tmp_path: Path, name: str, side: int, enlarged: int
) -> None:
    torch.manual_seed(0)
    network = build(name, 10, (3, enlarged, enlarged))
    classifier = Classifier(network, [0.5] * 3, [0.2] * 3, Enlargement(enlarged)).eval()
    onnx_form.export(exported(classifier, 3, side), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()] == [
        ("images", "tensor(uint8)", [3, side, side])
    ]
    assert [one.name for one in session.get_outputs()] == ["probabilities"]
    for count in (1, 2, 33):
        images = np.random.default_rng(count).integers(0, 256, (count, 3, side, side), np.uint8)
        with torch.inference_mode():
            expected = classifier(torch.from_numpy(images)).numpy()
        [answer] = session.run(None, {"images": images})
        assert answer.dtype == np.float32
        assert answer == pytest.approx(expected, abs=1e-5)


def test_the_weights_are_inside(exported: Exported, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier(build("fast_cnn", 3, (1, 8, 8)), [0.5], [0.2])
    onnx_form.export(exported(classifier, 1, 8), tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt2"]
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)


def test_the_same_program_gives_the_same_file(exported: Exported, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = exported(Classifier(build("fast_cnn", 3, (1, 8, 8)), [0.5], [0.2]), 1, 8)
    for name in ("first.onnx", "second.onnx"):
        onnx_form.export(program, tmp_path / name)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_a_network_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pt2").write_bytes(b"0" * 2000)
    monkeypatch.setattr(onnx_form, "LARGEST", 1000)
    with pytest.raises(ModelError, match="an ONNX file at most 2; train a smaller network"):
        onnx_form.export(tmp_path / "model.pt2", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


class Sorted(torch.nn.Module):
    """Has an operation that ONNX has not."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.linalg.qr(images.float().flatten(1))[1]


def test_what_onnx_cannot_say_is_told_in_one_line(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"this network cannot be served, for it has no ONNX form: .+") as error:
        onnx_form.export(exported(Sorted(), 1, 8), tmp_path / "model.onnx")
    assert "\n" not in str(error.value)


def test_a_network_of_timm_is_tried_before_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.random.get_rng_state()
    onnx_form.require(["fast_cnn", "lcnet_035"], 3, (3, 32, 32))
    assert torch.equal(torch.random.get_rng_state(), state)  # what is trained after it is the same
    monkeypatch.setattr(onnx_form, "build", lambda *_: Sorted())
    onnx_form.require(NETWORKS, 3, (3, 32, 32))  # not tried: `test_both_forms_answer_alike_…` has them
    with pytest.raises(ModelError, match=r"model=lcnet_035: this network cannot be served, .+; choose another network"):
        onnx_form.require(["lcnet_035"], 3, (3, 32, 32))
