"""The kubernetes runtime on a real cluster: results, walls, logs."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from pipeline.kubernetes.operator import KubernetesStageOperator
from tasks.errors import PermanentError, PipelineError, RequestError, ResultError
from tests.stack.stub_stage import RUN_ID, TaskLog, context
from tests.waiting import until

from .conftest import PASSWORD, Make, Namespace

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def task_log(monkeypatch: pytest.MonkeyPatch) -> TaskLog:
    lines = TaskLog()
    monkeypatch.setattr(KubernetesStageOperator, "log", lines)
    return lines


def test_success_gives_the_result_and_leaves_nothing(make: Make, left: Any, task_log: TaskLog) -> None:
    task = make(
        "print('one'); time.sleep(1); print('two'); answer(version=len(request['evaluate_run_id']), reason='Ä'*150000)"
    )
    result = task.run_stage(context())
    assert (result["run_id"], result["version"], result["promoted"]) == (RUN_ID, 32, True)
    assert result["reason"] == "Ä" * 150000  # as large as a result gets, and in no way torn
    assert [line for line in task_log if line in ("one", "two")] == ["one", "two"]
    assert left(task) == []


# What each exit code and result file means is proven once for all runtimes (tests/plugins/operator/test_outcome.py);
# here only that code, kill and file come back from where the stage ran.
def test_an_exit_code_comes_back(make: Make, left: Any) -> None:
    task = make("print('2026-01-31 06:00:00,000 ERROR tasks: DataError: empty'); sys.exit(65)")
    with pytest.raises(PermanentError, match="exit code 65: DataError: empty"):
        task.run_stage(context())
    assert left(task) == []


def test_a_stage_out_of_memory_may_be_tried_again(make: Make, left: Any) -> None:
    task = make("x = bytearray(1 << 30)")
    with pytest.raises(PipelineError, match="exit code 137: out of memory, killed at its limit of 96m") as failure:
        task.run_stage(context())
    assert not isinstance(failure.value, PermanentError)
    assert left(task) == []


def test_a_result_that_is_not_a_file_is_permanent(make: Make, left: Any) -> None:
    task = make("os.mkdir('/airflow/xcom/return.json')")
    with pytest.raises(ResultError, match="is not a file"):
        task.run_stage(context())
    assert left(task) == []


# A pod's containers see each other's processes. The stage's has this variable, and is older than the shell that looks.
OLDEST_WITH_STUB = "cd $(dirname $(grep -las STUB= /proc/[0-9]*/environ | sort -t/ -k3n | head -1)); cat status environ"


def test_walls_and_labels_are_really_there(make: Make, left: Any, namespace: Namespace) -> None:
    task = make("time.sleep(60)")
    found: dict[str, Any] = {}

    def look_and_kill() -> None:
        (pod,) = until(lambda: [one for one in left(task) if one["status"]["phase"] == "Running"])
        name = pod["metadata"]["name"]
        found.update(pod)
        found["process"] = namespace.kubectl("exec", name, "--container", "base", "--", "sh", "-c", OLDEST_WITH_STUB)
        task.on_kill()

    killer = threading.Thread(target=look_and_kill)
    killer.start()
    with pytest.raises(PipelineError, match="deleted while it ran"):
        task.run_stage(context())
    killer.join()
    spec, said = found["spec"], found["process"]
    stage, sidecar = spec["containers"]
    assert stage["resources"]["limits"] == {"cpu": "500m", "memory": "96Mi"}
    assert stage["resources"]["requests"] == {"cpu": "100m", "memory": "96Mi"}
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("stage", False)
    assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in (stage, sidecar))
    assert "CapEff:\t0000000000000000" in said
    assert "NoNewPrivs:\t1" in said
    assert "Uid:\t10001" in said
    # The value comes from the cluster's Secret, and only its name is in the pod.
    assert f"MLFLOW_TRACKING_PASSWORD={PASSWORD}" in said
    assert PASSWORD not in json.dumps(spec)
    assert "of-airflow-not-of-the-cluster" not in json.dumps({name: found[name] for name in ("spec", "metadata")})
    assert "MLFLOW_TRACKING_URI=http://mlflow:5000" in said
    assert found["metadata"]["annotations"]["pipeline.key"] == f"{task.dag_id}/manual__1/t/-1"
    assert left(task) == []


def test_only_the_places_meant_for_it_can_be_written(make: Make) -> None:
    code = """
for folder in ("/", "/usr", "/home", "/airflow"):
    try:
        open(folder + "/x", "w")
    except OSError:
        continue
    sys.exit(f"{folder} can be written")
assert not os.path.exists("/var/run/secrets/kubernetes.io"), "it has a token"
for folder in ("/tmp", "/dev/shm"):
    open(folder + "/x", "w").write("ok")
answer()
"""
    assert make(code).run_stage(context())["version"] == 3


def test_a_quiet_stage_outlasts_the_log_streams_timeout(
    make: Make, task_log: TaskLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.kubernetes.cluster.QUIET", 1.0)
    make("print('one'); time.sleep(4); print('two'); answer()").run_stage(context())
    assert [line for line in task_log if line in ("one", "two")] == ["one", "two"]


def test_lines_come_as_they_are_written(make: Make, task_log: TaskLog) -> None:
    task = make("print('early'); time.sleep(20); answer()")
    thread = threading.Thread(target=lambda: task.run_stage(context()))
    thread.start()
    until(lambda: "early" in task_log)
    assert thread.is_alive()
    assert not [line for line in task_log if "done in" in line]
    thread.join(60)


def test_a_folder_of_this_machine_is_no_source_there(make: Make, left: Any) -> None:
    task = make("answer()", stage="prepare", request_fields={"dataset": "image_folder", "source": "/data"})
    with pytest.raises(RequestError, match=r"source='/data' is a path.*s3://"):
        task.run_stage(context())
    assert left(task) == []
