"""The stage prepare with workers of a Ray cluster: the same gold, also when a node is lost on the way."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from tasks.contract.data import PrepareRequest, PrepareResult
from tasks.contract.messages import TaskIdentity
from tasks.errors import RequestError, UnavailableError
from tasks.records import gold_store
from tasks.runner.stage_process import execute
from tasks.settings import Settings
from tasks.vision.cpus import available_cpus
from tasks.vision.data import bronze
from tasks.vision.data.pixel_file import FiledImage, PixelFile
from tests.tasks.cluster.local_cluster import LocalCluster, local_cluster
from tests.tasks.serving.samples import picture
from tests.waiting import until

IMAGES = 200
KILLED_AFTER = 60  # images
NOWHERE = "127.0.0.1:1"  # where nothing listens


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures in two classes, one of them twice, one large, one too narrow, and one that is none."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for number in range(IMAGES):
        path = folder / ("cat" if number % 2 else "dog") / f"{number:03}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    shutil.copy(folder / "cat/001.png", folder / "cat/copy.png")
    (folder / "dog/large.png").write_bytes(picture(77, 4200))
    (folder / "dog/narrow.png").write_bytes(picture(77, 4))
    (folder / "dog/broken.jpg").write_bytes(b"\xff\xd8\xffno picture")
    return folder


def run(day: str, source: Path | None = None, workers: int = 2) -> PrepareResult:
    task = TaskIdentity(dag_id="daily", dag_run_id=day, task_id="prepare")
    fields = {"dataset": "image_folder", "source": str(source)} if source else {}
    request = PrepareRequest(task=task, workers=workers, force=("prepare",), **fields)
    result = execute("prepare", request.model_dump_json())
    assert isinstance(result, PrepareResult)
    return result


def made_by(result: PrepareResult, folder: Path) -> tuple[str, list[bytes]]:
    """The digest of the gold, and what is written of each image and of those that were left out."""
    tags = MlflowClient().get_run(result.run_id).data.tags
    manifest = Path(
        mlflow.artifacts.download_artifacts(run_id=result.run_id, artifact_path="manifest", dst_path=folder)
    )
    return tags[gold_store.GOLD_SHA256], [(manifest / name).read_bytes() for name in ("bronze.jsonl.gz", "removed.csv")]


def lose_a_node(cluster: LocalCluster, patch: pytest.MonkeyPatch) -> None:
    """Kill one of the two nodes once each has a worker, some images are decoded, and more are on their way."""
    add = PixelFile.add

    def counted(self: PixelFile, pixels: np.ndarray) -> FiledImage:
        image = add(self, pixels)
        if image.position == KILLED_AFTER:
            until(lambda: len(cluster.processes("DecodingWorker")) == 2)
            cluster.kill("two")
        return image

    patch.setattr(PixelFile, "add", counted)
    patch.setattr(bronze, "BATCH_IMAGES", 5)


def test_workers_make_the_gold_of_the_stage_alone_though_a_node_is_lost(
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    alone = run("alone", photos)
    said = "workers=2: prepare uses them on a Ray cluster, for image files; here it decodes with"
    assert f"{said} {available_cpus()} threads" in caplog.text
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with local_cluster(temporary) as cluster:
        for name, value in cluster.variables.items():
            monkeypatch.setenv(name, value)
        with monkeypatch.context() as patch:
            lose_a_node(cluster, patch)
            found = run("workers", photos)
        assert caplog.text.count(said) == 1
        monkeypatch.setattr(bronze, "read", lambda *_, **__: pytest.fail("the images are read"))
        says = rf"workers=3 .* are more than the cluster at {cluster.address} has room for: 1 \(1 CPUs, 0 GPUs\)"
        with pytest.raises(RequestError, match=says):
            run("refused", photos, workers=3)
    assert (found.train_images, found.removed_images) == (alone.train_images, 3)
    assert made_by(found, tmp_path / "found") == made_by(alone, tmp_path / "alone")
    tags = MlflowClient().get_run(found.run_id).data.tags
    assert tags["pipeline.workers"] == "2"
    assert "pipeline.workers" not in MlflowClient().get_run(alone.run_id).data.tags


def test_only_image_files_go_to_the_cluster(
    photos: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", NOWHERE)
    assert run("digits").classes == 10
    assert run("one", photos, workers=1).classes == 2
    with pytest.raises(UnavailableError, match=f"no Ray cluster answers at RAY_ADDRESS={NOWHERE}"):
        run("files", photos)
