"""The stage predict with two workers, on a Ray of its own: interrupted, robbed of a worker, refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from tasks.cluster import supervisor
from tasks.errors import RequestError
from tasks.prediction import workers
from tests.stage_process import hold_back, read_to
from tests.tasks.cluster.local_cluster import local_cluster
from tests.tasks.prediction.conftest import Predict, RunStage, packed, table
from tests.tasks.serving.samples import Store, picture
from tests.waiting import until

IMAGES, PART = 3000, 50
TWO: dict[str, Any] = {"workers": 2, "worker_cpus": 1}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Pictures, and after each hundred a file that is none."""
    images = tmp_path / "many"
    images.mkdir()
    for number in range(IMAGES):
        (images / f"{number:04}.png").write_bytes(picture(number % 256))
        if number % 100 == 0:
            (images / f"{number:04}-broken.jpg").write_bytes(b"\xff\xd8\xffno picture")
    return images


def processes(temporary: Path) -> list[int]:
    """IDs of the processes of Ray that classify."""
    named = ((process, Path(f"/proc/{process}/cmdline")) for process in supervisor.users(temporary))
    return [process for process, title in named if b"PredictionWorker" in title.read_bytes()]


def after(part: int, out: Path, stage: subprocess.Popen[str]) -> None:
    """Wait until a part is complete."""
    until(lambda: (out / f"_parts/part-{part:05}.json").exists() or stage.poll() is not None)
    assert stage.poll() is None, stage.communicate()[0]


def require_same(found: Path, expected: Path) -> None:
    """Each file once, in the same order, with the same label; probabilities differ by rounding at most."""
    for name in ("predictions", "failed"):
        one, other = (table(folder / name).to_pydict() for folder in (found, expected))
        for column in ("probabilities", "probability"):
            values, wanted = (np.array(of.pop(column, [])) for of in (one, other))
            np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-6)
        assert one == other


def test_workers_answer_as_the_stage_does_though_it_and_a_worker_are_killed(
    many: Path, tmp_path: Path, temporary: Path, run_stage: RunStage, run_predict: Predict, store: Store
) -> None:
    out = tmp_path / "out"
    fields = {"out": str(out), "part_images": PART, "forward_images": 4, **TWO}
    first = run_stage(many, "workers", **fields)
    after(1, out, first)
    os.kill(processes(temporary)[-1], signal.SIGKILL)
    read_to(r"a worker was lost \(The actor .*\); another one gets its work", first)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=600)
    assert first.returncode == 128 + signal.SIGTERM, said
    assert "predict was asked to stop (SIGTERM)" in said
    until(lambda: not list(temporary.glob("ray-*")))

    complete = len(list((out / "_parts").glob("*.json")))
    second = run_stage(many, "workers", **fields)
    after(complete + 5, out, second)
    second.kill()
    second.communicate()
    until(lambda: not list(temporary.glob("ray-*")))

    third = run_stage(many, "workers", **fields)
    said, _ = third.communicate(timeout=600)
    assert third.returncode == 0, said
    assert "images are predicted already" in said
    assert (out / "_SUCCESS").exists()
    run_predict(many, out=str(tmp_path / "alone"), part_images=PART)
    require_same(out, tmp_path / "alone")
    result = json.loads((tmp_path / "return.json").read_text())
    tags = MlflowClient().get_run(result["run_id"]).data.tags
    assert (tags["pipeline.workers"], tags["pipeline.machines"]) == ("2", socket.gethostname())


def test_the_stage_goes_on_without_a_node_that_a_cluster_loses(
    many: Path, tmp_path: Path, temporary: Path, run_stage: RunStage, run_predict: Predict
) -> None:
    out = tmp_path / "out"
    with local_cluster(temporary) as cluster:
        stage = run_stage(
            many, "cluster", cluster.variables, out=str(out), part_images=PART, forward_images=4, workers=2
        )
        after(1, out, stage)
        hold_back(stage, lambda: len(processes(temporary)) == 2)
        cluster.kill("two")
        assert stage.poll() is None
        said, _ = stage.communicate(timeout=600)
        assert stage.returncode == 0, said
        refused = run_stage(many, "refused", cluster.variables, workers=3)
        said, _ = refused.communicate(timeout=600)
        assert refused.returncode == RequestError("").exit_code
        assert f"are more than the cluster at {cluster.address} has room for: 1 (1 CPUs, 0 GPUs)" in said
    run_predict(many, out=str(tmp_path / "alone"), part_images=PART)
    require_same(out, tmp_path / "alone")


def test_workers_answer_for_an_archive_with_large_images(
    folder: Path, tmp_path: Path, temporary: Path, run_predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In groups by bytes, which are not those of one process; large ones in a process beside the worker."""
    monkeypatch.setattr(workers, "SENT_BYTES", 300)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (folder / "1/large.png").write_bytes(picture(77, 4200))
    source = packed(folder, tmp_path / "a.tar.gz")
    result = run_predict(source, out=str(tmp_path / "out"), part_images=9, **TWO)
    assert (result.images, result.failed, result.parts) == (14, 1, 2)
    run_predict(source, out=str(tmp_path / "alone"), part_images=9)
    require_same(tmp_path / "out", tmp_path / "alone")
    assert not list(temporary.glob("ray-*"))
    assert run_predict(source, out=str(tmp_path / "out"), part_images=9, **TWO).images_per_second == 0


def test_more_workers_than_the_machine_has_cores_are_refused_before_anything_starts(
    folder: Path, temporary: Path, run_predict: Predict
) -> None:
    says = (
        r"workers=20 with 512 CPUs and 0 GPUs each are more than this machine has room for: 0 .*; lower workers or "
        r"worker_cpus, or set RAY_ADDRESS"
    )
    with pytest.raises(RequestError, match=says):
        run_predict(folder, workers=20, worker_cpus=512)
    assert not list(temporary.glob("ray-*"))
