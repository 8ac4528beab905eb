from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tasks.errors import DataError, ModelError
from tasks.vision.models import weights
from tasks.vision.models.build import build, head_name
from tasks.vision.models.classifier import Classifier

SHAPE = (3, 64, 64)


@pytest.fixture(scope="module")
def lite0(lite0_file: Path) -> dict[str, torch.Tensor]:
    return weights.read(lite0_file)


def test_the_packages_weights_fit_timms_network_and_give_the_same_logits(lite0: dict[str, torch.Tensor]) -> None:
    network = build("efficientnet_lite0", 1000, SHAPE, lite0).eval()
    assert len(network.state_dict()) == len(lite0)
    for ours, theirs in zip(network.state_dict().values(), lite0.values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_head_for_other_classes_is_drawn_anew_and_the_rest_is_kept(lite0: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    network = build("efficientnet_lite0", 5, SHAPE, lite0)
    assert network.get_parameter("classifier.weight").shape == (5, 1280)
    assert torch.equal(network.get_parameter("conv_head.weight"), list(lite0.values())[-8])


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_and_other_sizes_work(lite0: dict[str, torch.Tensor], channels: int) -> None:
    network = build("efficientnet_lite0", 4, (channels, 96, 96), lite0).eval()
    grey = torch.rand(2, 1, 96, 96)
    logits = network(grey.expand(-1, channels, -1, -1))
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()


def test_grey_images_get_the_features_of_the_same_images_in_colour(lite0: dict[str, torch.Tensor]) -> None:
    grey = torch.rand(2, 1, 64, 64)
    one, three = (build("efficientnet_lite0", 1000, (n, 64, 64), lite0).eval() for n in (1, 3))
    assert torch.allclose(one(grey), three(grey.expand(-1, 3, -1, -1)), atol=1e-3)


def test_weights_of_another_network_are_refused(lite0: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ModelError, match=r"not those of mobilenet_v3_small: 2\d\d of its .* set model to the network"):
        build("mobilenet_v3_small", 5, SHAPE, lite0)
    with pytest.raises(ModelError, match="the weights are not those of efficientnet_b0"):
        build("efficientnet_b0", 5, SHAPE, lite0)


def test_the_same_names_with_other_shapes_are_refused() -> None:
    trained = build("fast_cnn", 3, (3, 8, 8)).state_dict()
    trained["features.0.weight"] = torch.zeros(16, 3, 3, 3)
    with pytest.raises(ModelError, match=r"do not fit fast_cnn for 3 channels and 8 pixels .*size mismatch"):
        build("fast_cnn", 3, (3, 8, 8), trained)
    with pytest.raises(ModelError, match="do not fit fast_cnn for 1 channels"):
        build("fast_cnn", 3, (1, 8, 8), build("fast_cnn", 3, (3, 8, 8)).state_dict())


@pytest.mark.parametrize("architecture", ["fast_cnn", "mobilenet_v3_small", "resnet18"])
@pytest.mark.parametrize("classes", [3, 7])
def test_our_own_networks_go_on_from_their_weights(architecture: str, classes: int) -> None:
    torch.manual_seed(0)
    first = build(architecture, 3, (3, 32, 32))
    second = build(architecture, classes, (3, 32, 32), first.state_dict())
    head = head_name(first, 3)
    for name, tensor in first.state_dict().items():
        same = second.state_dict()[name].shape == tensor.shape and torch.equal(second.state_dict()[name], tensor)
        assert same is (classes == 3 or not name.startswith(f"{head}."))


def test_a_stored_model_is_read_under_the_names_of_its_network(tmp_path: Path) -> None:
    classifier = Classifier(build("fast_cnn", 3, (1, 8, 8)), [0.25], [0.5]).eval()
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    torch.export.save(torch.export.export(classifier, (images,)), tmp_path / "model.pt2")
    state = weights.read(tmp_path / "model.pt2")
    assert set(classifier.network.state_dict()) <= set(state)
    assert (state["mean"].item(), state["std"].item()) == (0.25, 0.5)


@pytest.mark.parametrize("suffix", [".safetensors", ".SafeTensors", ".pt", ".pth", ".bin", ".PT"])
def test_files_are_read_by_their_kind_and_damaged_ones_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {"a": torch.arange(6.0).view(2, 3)}
    save_file(state, path) if suffix.lower() == ".safetensors" else torch.save({"state_dict": state}, path)
    assert torch.equal(weights.read(path)["a"], state["a"])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=rf"weights{suffix} "):
        weights.read(path)


@pytest.mark.parametrize("name", ["weights", "weights.ckpt", "weights.safetensors", "weights.bin"])
def test_the_content_decides_where_the_name_is_wrong(tmp_path: Path, name: str) -> None:
    state, path = {"a": torch.arange(6.0).view(2, 3)}, tmp_path / name
    save_file(state, path)
    assert torch.equal(weights.read(path)["a"], state["a"])
    torch.save(state, path)
    assert torch.equal(weights.read(path)["a"], state["a"])


@pytest.mark.parametrize("nested", weights.NESTED)
def test_weights_are_found_where_training_programs_keep_them(tmp_path: Path, nested: str) -> None:
    state = {"a": torch.arange(3.0)}
    torch.save({nested: state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "last.pth")
    assert list(weights.read(tmp_path / "last.pth")) == ["a"]


def test_a_pickle_of_old_torch_is_read_by_its_suffix_only(tmp_path: Path) -> None:
    for name in ("old.pt", "old"):
        torch.save({"a": torch.ones(2)}, tmp_path / name, _use_new_zipfile_serialization=False)
    assert list(weights.read(tmp_path / "old.pt")) == ["a"]
    with pytest.raises(DataError, match="old is not a file of weights"):
        weights.read(tmp_path / "old")


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap()))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "trap.safetensors").write_bytes((tmp_path / "module.pt").read_bytes())
    for name in ("trap.pt", "module.pt", "trap.safetensors"):
        with pytest.raises(DataError, match=f"{name} is damaged or holds more than tensors.*save the state dict alone"):
            weights.read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(DataError, match=r"weights.h5 is not a file of weights; give a .safetensors"):
        weights.read(tmp_path / "weights.h5")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match=r"list.pt is not a state dict"):
        weights.read(tmp_path / "list.pt")
    with pytest.raises(DataError, match=r"gone.pt cannot be read as weights"):
        weights.read(tmp_path / "gone.pt")
