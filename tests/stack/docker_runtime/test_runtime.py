"""The docker runtime against a real engine, through the socket proxy as in the stack.

A small image stands where the stages' images would.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from pipeline.docker import engine
from pipeline.docker.operator import DockerStageOperator
from tasks.errors import PermanentError, PipelineError, ResultError, SettingsError, UnavailableError
from tests.stack.docker_runtime.conftest import Make
from tests.stack.stub_stage import RUN_ID, TaskLog, context
from tests.waiting import until

pytestmark = pytest.mark.docker

SOCKET = "unix:///var/run/docker.sock"


def test_success_gives_the_result_and_leaves_nothing(make: Make, left: Any) -> None:
    task = make("assert stage == 'register'; answer(version=len(request['evaluate_run_id']))")
    result = task.run_stage(context())
    assert (result["run_id"], result["version"], result["promoted"]) == (RUN_ID, 32, True)
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


def test_walls_and_labels_are_really_there(make: Make, left: Any, client: docker.DockerClient) -> None:
    task = make("time.sleep(60)")
    found: dict[str, Any] = {}

    def look_and_kill() -> None:
        (container,) = until(lambda: [one for one in left(task) if one["State"] == "running"])
        found.update(client.api.inspect_container(container["Id"]))
        task.on_kill()

    killer = threading.Thread(target=look_and_kill)
    killer.start()
    with pytest.raises(PipelineError):
        task.run_stage(context())
    killer.join()
    host = found["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 96 << 20, 96 << 20)
    assert (host["ShmSize"], host["ReadonlyRootfs"], host["Init"]) == (32 << 20, True, True)
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert found["Config"]["Labels"]["pipeline.key"] == f"{task.dag_id}/manual__1/t/-1"
    variables = dict(line.split("=", 1) for line in found["Config"]["Env"])
    assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert variables["MLFLOW_TRACKING_PASSWORD"] == "v3ry-l0ng"
    assert "@sha256:" in variables["PIPELINE_IMAGE"]
    assert left(task) == []


def test_only_the_places_meant_for_it_can_be_written(make: Make) -> None:
    code = """
for folder in ("/", "/usr", "/home"):
    try:
        open(folder + "/x", "w")
    except OSError:
        continue
    sys.exit(f"{folder} can be written")
open("/tmp/x", "w").write("ok")
answer()
"""
    assert make(code).run_stage(context())["version"] == 3


def test_on_kill_stops_gracefully_and_removes(make: Make, left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task_log = TaskLog()
    monkeypatch.setattr(DockerStageOperator, "log", task_log)
    task = make("signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(143))); print('up'); time.sleep(600)")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            task.run_stage(context())
        except PipelineError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: "up" in task_log)
    task.on_kill()
    thread.join(60)
    assert not thread.is_alive()
    assert "bye" in task_log
    assert not isinstance(failures[0], PermanentError)
    assert left(task) == []


def test_a_leftover_of_the_same_task_is_removed_and_others_stay(
    make: Make, left: Any, client: docker.DockerClient, names: SimpleNamespace
) -> None:
    task = make("answer()")
    key = task.job(context()).key
    for label, network in ((key, names.network), (f"{key}0", names.network), (key, "bridge")):
        client.containers.create(  # as a try leaves one that is killed before it starts it
            f"{names.prefix}/register:dev",
            name=f"{names.prefix}-{secrets.token_hex(4)}",
            labels={"pipeline.key": label, "pipeline.dag_id": task.dag_id},
            network=network,
        )
    task.run_stage(context())
    found = {(one["Labels"]["pipeline.key"], one["HostConfig"]["NetworkMode"]) for one in left(task)}
    assert found == {(f"{key}0", names.network), (key, "bridge")}  # the last one is another installation's


def test_a_quiet_stage_outlasts_the_clients_timeout(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    task_log = TaskLog()
    monkeypatch.setattr(DockerStageOperator, "log", task_log)
    read_logs, opened = docker.APIClient.logs, 0

    def impatiently(api: docker.APIClient, *arguments: Any, **options: Any) -> Any:
        """The log stream only: other calls take longer than a second on a busy machine."""
        nonlocal opened
        opened += 1
        patient, api.timeout = api.timeout, 1
        try:
            return read_logs(api, *arguments, **options)
        finally:
            api.timeout = patient

    monkeypatch.setattr(docker.APIClient, "logs", impatiently)
    make("print('one'); time.sleep(3); print('two'); answer()").run_stage(context())
    assert [line for line in task_log if line in ("one", "two")] == ["one", "two"]
    assert opened > 1, "the quiet was longer than the timeout"


def test_a_log_stream_that_is_cut_goes_on_where_it_stopped(client: docker.DockerClient, names: SimpleNamespace) -> None:
    """A proxy ends long streams; this one ends each after its third line."""
    script = "import time\nfor i in range(10):\n    print('line', i, flush=True)\n    time.sleep(0.1)"
    container = client.containers.run(
        f"{names.prefix}/register:dev",
        entrypoint=["python", "-c", script],
        detach=True,
        name=f"{names.prefix}-{secrets.token_hex(4)}",
    )

    class Cutting:
        def __getattr__(self, name: str) -> Any:
            return getattr(client.api, name)

        def logs(self, *arguments: Any, **options: Any) -> Iterator[bytes]:
            for number, chunk in enumerate(client.api.logs(*arguments, **options)):
                if number == 3 and client.api.inspect_container(container.id)["State"]["Running"]:
                    raise engine.STREAM_CUT[1]("cut")
                yield chunk

    assert list(engine.follow_logs(Cutting(), container.id)) == [f"line {i}" for i in range(10)]  # type: ignore[arg-type]


def test_a_missing_image_is_one_line_with_the_fix(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_IMAGE_TAG", "none")
    with pytest.raises(SettingsError, match=r"no image 'vm-test-\w+/register:none'; run `make images`"):
        make("answer()", docker_url=SOCKET).run_stage(context())


def test_a_missing_network_is_one_line_with_the_fix(make: Make, left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_DOCKER_NETWORK", "vm-test-none")
    task = make("answer()", docker_url=SOCKET)
    with pytest.raises(SettingsError, match=r"no network 'vm-test-none'.*PIPELINE_DOCKER_NETWORK"):
        task.run_stage(context())
    assert left(task) == []


def test_a_limit_over_the_cores_of_the_engine_is_none(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ceiling that administrators set for large machines, for example."""
    task_log = TaskLog()
    monkeypatch.setattr(DockerStageOperator, "log", task_log)
    assert make("answer()", resources={"cpus": 4096}).run_stage(context())["run_id"] == RUN_ID
    assert "register: all CPU cores of the engine, fewer than cpus=4096" in task_log


def test_an_engine_that_is_away_may_be_back_later(make: Make) -> None:
    with pytest.raises(UnavailableError, match=r"no Docker engine answers at tcp://127\.0\.0\.1:9"):
        make("answer()", docker_url="tcp://127.0.0.1:9").run_stage(context())


PREPARED = """
fields = {"run_id": "0" * 32, "experiment_id": "1", "seconds": 1, "fingerprint": "0" * 64, "reused": False,
          "classes": len(os.listdir(request["source"])), "train_images": 1, "validation_images": 1, "test_images": 1,
          "removed_images": 0}
try:
    open(request["source"] + "/x", "w")
except OSError:
    json.dump(fields, open("/airflow/xcom/return.json", "w"))
"""


def test_a_local_source_is_mounted_for_reading_only(make: Make, roots: Path) -> None:
    for name in ("cat", "dog", "owl"):
        (roots / "pets" / name).mkdir(parents=True)
    task = make(PREPARED, stage="prepare", request_fields={"dataset": "image_folder", "source": str(roots / "pets")})
    assert task.run_stage(context())["classes"] == 3


def test_a_link_does_not_lead_out_of_the_folders_that_are_allowed(make: Make, left: Any, roots: Path) -> None:
    """Whoever may write there could otherwise have any folder of the engine's machine read."""
    secret = roots.parent / "secret"
    secret.mkdir(mode=0o755)
    (roots / "link").symlink_to(secret)
    task = make(PREPARED, stage="prepare", request_fields={"dataset": "image_folder", "source": str(roots / "link")})
    with pytest.raises(PipelineError, match=r"No such file or directory: '/sources/.*/link'"):
        task.run_stage(context())
    assert left(task) == []


def test_what_the_proxy_refuses_is_one_line_that_is_not_tried_again(
    make: Make, left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_DOCKER_NETWORK", "vm-test-none")  # as if the proxy had not been started anew
    task = make("answer()")
    with pytest.raises(SettingsError, match=r"the socket proxy refused this call.*the network vm-test-"):
        task.run_stage(context())
    assert left(task) == []
