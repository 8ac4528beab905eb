"""The hook of the chaos test: inert unless asked for, then exactly one fault. tests/chaos uses it on real stages."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from tasks.errors import SettingsError
from tasks.runner import faults
from tasks.settings import Settings

# A stage of four writes, run as the entry point runs one; what its process did is printed.
PROGRAM = """
import json, sys
from pathlib import Path
import mlflow
import tasks.stages.register as stage
from tasks.records import tracking
from tasks.contract.promotion import RegisterResult
from tasks.runner.stage_process import run_stage
def run(request, run, settings):
    mlflow.set_tag("once", "1")
    Path("folder").mkdir(exist_ok=True)
    for name in "abcd":
        (Path("folder") / name).write_text("12345678")
    mlflow.log_artifacts("folder", "files")
    return RegisterResult(**run.result_fields, registered_model="m", version=1, created=True, promoted=True,
                          previous_champion=None, reason="first")
stage.run = run
task = {"dag_id": "d", "dag_run_id": "r", "task_id": "register"}
request = {"task": task, "evaluate_run_id": "0" * 32, "approval": {}}
sys.exit(run_stage("register", json.dumps(request), Path("return.json")))
"""


def run(folder: Path, **fault: object) -> int:
    environment = os.environ | {"PYTHONPATH": str(Path(faults.__file__).parents[2]), faults.VARIABLE: json.dumps(fault)}
    return subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, timeout=600).returncode


def artifacts(settings: Settings) -> dict[str, str]:
    return {path.name: path.read_text() for path in settings.pipeline_home.rglob("artifacts/files/*")}


WRAPPED = """
import os
import mlflow.tracking._tracking_service.registry as tracking, mlflow.tracking._model_registry.registry as models
import mlflow.store.artifact.artifact_repository_registry as artifacts
from tasks.runner import faults, result_file
from tasks.serving import client, process
def found():
    return [
        tracking.TrackingStoreRegistry.get_store, models.ModelRegistryStoreRegistry.get_store,
        artifacts.ArtifactRepositoryRegistry.get_artifact_repository, result_file.write, process.start, process.stop,
        client.ServiceClient.refresh,
    ]
before = found()
faults.arm("deploy")
print(sum(a is not b for a, b in zip(before, found())))
"""


@pytest.mark.parametrize(("value", "wrapped"), [(None, 0), ("", 0), ('{"record": "points"}', 7)])
def test_nothing_is_wrapped_unless_asked_for(value: str | None, wrapped: int) -> None:
    environment = {name: text for name, text in os.environ.items() if name != faults.VARIABLE}
    environment |= {"PYTHONPATH": str(Path(faults.__file__).parents[2])} | (
        {} if value is None else {faults.VARIABLE: value}
    )
    done = subprocess.run([sys.executable, "-c", WRAPPED], env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout == f"{wrapped}\n", done.stderr


@pytest.mark.long  # CI's sample of chaos does the same, for every stage
def test_points_are_recorded_killed_at_torn_and_passed_by_the_retry(settings: Settings, tmp_path: Path) -> None:
    """One test: each of its processes takes seconds to import MLflow."""
    point = {"point": "register/log_artifacts#1", "marker": str(tmp_path / "first")}
    assert run(tmp_path, **point, when="during", action="SIGKILL") == -signal.SIGKILL
    assert artifacts(settings) == {"a": "12345678", "b": "1234"}  # half of the files, half of the last one
    assert (tmp_path / "first").exists()

    marker = {"marker": str(tmp_path / "damaged")}
    assert run(tmp_path, **point | marker, when="during", action="damaged") == -signal.SIGKILL
    assert artifacts(settings) == dict.fromkeys("abcd", "12344678")  # 5 with a wrong bit is 4

    assert run(tmp_path, **point | {"marker": str(tmp_path / "second")}, when="before", action="SIGTERM") == 143
    assert run(tmp_path, **point | {"marker": str(tmp_path / "third")}, action="full") == 1
    assert run(tmp_path, **point | {"marker": str(tmp_path / "fourth")}, when="after", action="away") == 69
    assert artifacts(settings) == dict.fromkeys("abcd", "12345678")
    assert not (tmp_path / "return.json").exists()

    assert run(tmp_path, **point, when="during", action="SIGKILL") == 0  # its marker is there
    assert (tmp_path / "return.json").exists()
    assert run(tmp_path, record=str(tmp_path / "points")) == 0
    points = (tmp_path / "points").read_text().splitlines()
    assert {"register/set_tag#1", "register/log_artifacts#1", "register/write_result#1"} <= set(points)
    assert points[-1] == "register/write_result#1"
    assert len(points) == len(set(points))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "is not JSON"),
        ("{}", "give either record, or point and marker"),
        ('{"point": "train/log_batch#1"}', "point without marker"),
        (
            '{"point": "train/log_batch#1", "marker": "m", "when": "during"}',
            "is for log_artifact, log_artifacts and delete_artifacts only",
        ),
        (
            '{"point": "clean/delete_artifacts#1", "marker": "m", "when": "during", "action": "damaged"}',
            "is for what is written, not removed",
        ),
        ('{"point": "train/log_batch#1", "marker": "m", "action": "SIGSTOP"}', "action='SIGSTOP'"),
        ('{"point": "train/log_artifact#1", "marker": "m", "action": "damaged"}', "is for when='during' only"),
    ],
)
def test_a_variable_that_cannot_be_used_is_an_error(value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, value)
    with pytest.raises(SettingsError, match=words):
        faults.arm("train")


def test_a_full_disk_is_that_of_the_system() -> None:
    points = faults._Points("train", faults.Fault(point="train/p#1", marker=Path("m"), action="full"))
    with pytest.raises(OSError, match="No space left") as raised:
        points._strike("train/p#1")
    assert raised.value.errno == errno.ENOSPC


def test_a_removal_that_is_cut_short_leaves_the_later_half(tmp_path: Path) -> None:
    names = ("a/1", "a/2", "b", "c")
    for name in names:
        (tmp_path / "weights" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "weights" / name).write_text(name)
    repository = LocalArtifactRepository(tmp_path.as_uri())
    faults._remove_half(repository.delete_artifacts, "weights")
    left = [path.relative_to(tmp_path / "weights").as_posix() for path in (tmp_path / "weights").rglob("*")]
    assert sorted(left) == ["a", "b", "c"]
