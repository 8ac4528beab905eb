"""The deploy stage against a stand-in for the service; tests/tasks/serving/test_launch.py has it start the real one."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.contract.deployment import DeployRequest, DeployResult
from tasks.contract.messages import TaskIdentity
from tasks.errors import DataError, ModelError, SettingsError
from tasks.records import ledger, registry
from tasks.records.tracking import connect, stage_run
from tasks.serving import process
from tasks.settings import Runtime, Settings
from tasks.stages import deploy
from tests.tasks.store_copies import Beginnings

MODEL = "cats"
PNG = b"\x89PNG, as far as deploy is concerned"
REFERENCE = {
    "tolerance": 0.001,
    "probes": [{"name": "one", "png": base64.b64encode(PNG).decode(), "probabilities": [0.9, 0.1], "class": "cat"}],
}


class StandIn:
    """Answers as the service does, with whatever a test puts into `info` and `answer`."""

    def __init__(self, run_id: str, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.info: dict[str, Any] = {
            "service": "vision-mlops", "reference": "champion", "follows": "champion", "registered_model": MODEL,
            "model_version": 1, "run_id": run_id, "classes": ["cat", "dog"], "problem": None,
        }  # fmt: skip
        self.answer: dict[str, Any] = {"class": "cat", "probabilities": {"dog": 0.1, "cat": 0.9}, "model_version": 1}
        self.status = 200
        self.received: list[bytes] = []
        self.asked = 0
        self.at_info: Callable[[], None] = lambda: None
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.path == "/predict_image":
                    stand_in.received.append(body)
                    self.reply(stand_in.status, stand_in.answer)
                else:
                    stand_in.asked += 1
                    stand_in.at_info()
                    self.reply(200, stand_in.info)

            def reply(self, status: int, answer: dict[str, Any]) -> None:
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(address, Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def train_run(settings: Settings, beginnings: Beginnings) -> str:
    """`cats` version 1, champion, with reference predictions in its evaluate run; the ID of its train run."""
    return beginnings.begin("champion", settings, lambda: _champion(settings))


def _champion(settings: Settings) -> str:
    experiment_id = connect(settings)
    with mlflow.start_run(experiment_id=experiment_id) as train:
        pass
    with mlflow.start_run(experiment_id=experiment_id) as evaluate:
        mlflow.log_dict(REFERENCE, "probes.json")
    tags = {"pipeline.evaluate_run_id": evaluate.info.run_id}
    registry.create_version(MODEL, f"runs:/{train.info.run_id}/model", train.info.run_id, tags, "")
    registry.set_alias(MODEL, registry.CHAMPION, 1)
    return str(train.info.run_id)


@pytest.fixture
def service(train_run: str) -> Iterator[StandIn]:
    stand_in = StandIn(train_run)
    threading.Thread(target=stand_in.server.serve_forever, args=(0.01,), daemon=True).start()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


Deploy = Callable[..., DeployResult]


@pytest.fixture
def deployed(settings: Settings, task: TaskIdentity, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Run the stage; the shortest timeout, since what it waits for here comes at once or never."""
    monkeypatch.setattr("tasks.serving.wait.POLL_SECONDS", 0.1)  # some ask until the time is up
    monkeypatch.setattr("tasks.serving.wait.LOG_SECONDS", 0.1)

    def run(url: str, seconds: int = 5, **more: object) -> DeployResult:
        here = settings.model_copy(update={"serving_url": url, **more})
        request = DeployRequest(task=task, registered_model=MODEL, version=1, deploy_timeout=seconds)
        with stage_run(request, "deploy", settings) as stage:
            return deploy.run(request, stage, here)

    return run


def test_compares_the_answers_and_says_so(service: StandIn, deployed: Deploy, settings: Settings) -> None:
    result = deployed(service.url)
    assert (result.version, result.url, result.started, result.answers_checked) == (1, service.url, False, 1)
    assert PNG in service.received[0]
    logged = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/answers.json")
    assert logged["answers"][0]["class"] == "cat"
    assert logged["answers"][0]["difference"] == pytest.approx(0, abs=1e-9)
    assert MlflowClient().get_run(result.run_id).data.metrics["deploy/answers_checked"] == 1


def test_again_in_the_same_run(service: StandIn, deployed: Deploy) -> None:
    assert deployed(service.url).run_id == deployed(service.url).run_id


def test_waits_for_the_version(service: StandIn, deployed: Deploy) -> None:
    service.info["model_version"] = None

    def appear() -> None:
        if service.asked > 3:
            service.info["model_version"] = 1

    service.at_info = appear
    assert deployed(service.url).version == 1
    assert service.asked > 3


@pytest.mark.parametrize(
    "answer",
    [
        {"class": "dog"},
        {"probabilities": {"cat": 0.85, "dog": 0.15}},
        {"probabilities": {"cat": 0.9}},
        {"probabilities": {"cat": float("nan"), "dog": 0.1}},
        {"model_version": 2},
    ],
)
def test_refuses_answers_that_differ(service: StandIn, deployed: Deploy, answer: dict[str, Any]) -> None:
    service.answer.update(answer)
    with pytest.raises(ModelError, match=r"reference image 'one': evaluate answered 'cat' \[0.9, 0.1\], the service"):
        deployed(service.url)


def test_differences_within_the_tolerance_pass(service: StandIn, deployed: Deploy) -> None:
    service.answer["probabilities"] = {"cat": 0.8995, "dog": 0.1005}
    assert deployed(service.url).answers_checked == 1


@pytest.mark.parametrize("status", [400, 500, 503])
def test_a_refused_reference_image(service: StandIn, deployed: Deploy, status: int) -> None:
    service.status = status
    with pytest.raises(ModelError, match=f"HTTP {status}"):
        deployed(service.url)


def test_a_service_that_is_busy_for_a_moment_is_asked_again(service: StandIn, deployed: Deploy) -> None:
    service.status = 503

    def recover() -> None:
        if service.asked > 6:
            service.status = 200

    service.at_info = recover
    assert deployed(service.url, 60).answers_checked == 1


def promote(version: int, before: int | None) -> None:
    ledger.move_champion(
        ledger.Entry(
            "daily/r/register", ledger.Kind.PROMOTION, MODEL, before, version, version, f"sha{version}", "", ""
        )
    )


@pytest.mark.parametrize("before", [None, 7])
def test_a_promotion_that_cannot_be_proven_is_undone(
    service: StandIn, deployed: Deploy, train_run: str, before: int | None
) -> None:
    if before is not None:
        for _ in range(before - 1):
            registry.create_version(MODEL, f"runs:/{train_run}/model", train_run, {}, "")
    promote(1, before)
    service.answer["class"] = "dog"
    again = f"champion of cats is version {before} again" if before else "cats has no champion again"
    with pytest.raises(ModelError, match=f"evaluate answered 'cat'.*; {again}"):
        deployed(service.url)
    champion = registry.by_alias(MODEL)
    assert (int(champion.version) if champion else None) == before
    told = next(ledger.history(MODEL)).entry
    assert (told.kind, told.from_version, told.to_version) == (ledger.Kind.FAILED_DEPLOY, 1, before)
    assert "evaluate answered 'cat'" in told.reason


@pytest.mark.parametrize("cut_before", ["alias", "record", "end"])
def test_a_retry_finishes_the_undoing(
    service: StandIn, deployed: Deploy, monkeypatch: pytest.MonkeyPatch, cut_before: str
) -> None:
    promote(1, None)
    service.answer["class"] = "dog"

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    owner, name = {
        "alias": (registry, "delete_alias"),
        "record": (MlflowClient, "set_terminated"),
        "end": (deploy, "_again"),
    }[cut_before]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(SystemExit):
            deployed(service.url)
    service.answer["class"] = "cat"  # it was proven wrong once, and the ledger says so
    for _ in range(2):
        with pytest.raises(ModelError, match=r"evaluate answered 'cat'.*; cats has no champion again"):
            deployed(service.url)
    assert registry.by_alias(MODEL) is None
    assert [(r.entry.kind, r.finished) for r in ledger.history(MODEL)] == [
        (ledger.Kind.FAILED_DEPLOY, True),
        (ledger.Kind.PROMOTION, True),
    ]


def test_who_makes_it_champion_again_may_deploy_it_again(service: StandIn, deployed: Deploy) -> None:
    promote(1, None)
    service.answer["class"] = "dog"
    with pytest.raises(ModelError, match="has no champion again"):
        deployed(service.url)
    service.answer["class"] = "cat"
    registry.set_alias(MODEL, registry.CHAMPION, 1)
    assert deployed(service.url).version == 1


@pytest.fixture
def second(service: StandIn, train_run: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Another replica on the same port; both stand behind the name `replicas.test`."""
    replica = StandIn(train_run, ("127.0.0.2", service.server.server_port))
    threading.Thread(target=replica.server.serve_forever, args=(0.01,), daemon=True).start()
    resolve = socket.getaddrinfo

    def both(host: str, *rest: Any, **named: Any) -> list[Any]:
        if host != "replicas.test":
            return resolve(host, *rest, **named)
        return [*resolve("127.0.0.1", *rest, **named), *resolve("127.0.0.2", *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    yield replica
    replica.server.shutdown()
    replica.server.server_close()


def test_every_replica_is_asked(service: StandIn, second: StandIn, deployed: Deploy) -> None:
    result = deployed(f"http://replicas.test:{service.server.server_port}")
    assert (result.replicas, result.answers_checked) == (2, 2)
    assert service.received
    assert second.received


@pytest.mark.parametrize("wrong", [{"model_version": 7}, {"answer": {"class": "dog"}}])
def test_one_replica_that_is_wrong_undoes_the_promotion(
    service: StandIn, second: StandIn, deployed: Deploy, wrong: dict[str, Any]
) -> None:
    promote(1, None)
    second.answer.update(wrong.get("answer", {}))
    second.info.update({name: value for name, value in wrong.items() if name != "answer"})
    with pytest.raises(ModelError, match=r"cats has no champion again"):
        deployed(f"http://replicas.test:{service.server.server_port}")
    assert registry.by_alias(MODEL) is None


def test_what_the_ledger_does_not_know_is_not_undone(service: StandIn, deployed: Deploy) -> None:
    service.answer["class"] = "dog"
    with pytest.raises(ModelError, match="champion stays version 1: the ledger does not show what it was before"):
        deployed(service.url)
    assert registry.by_alias(MODEL)
    assert list(ledger.history(MODEL)) == []


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({"registered_model": "dogs"}, "serves registered model 'dogs', not 'cats'; restart it with"),
        ({"model_version": 3, "follows": None, "reference": "3"}, "serves '3' and does not follow 'champion'"),
        ({"run_id": "f" * 32}, "version 1 of another MLflow"),
    ],
)
def test_a_service_that_will_never_serve_it(
    service: StandIn, deployed: Deploy, info: dict[str, Any], text: str
) -> None:
    service.info.update(info)
    with pytest.raises(ModelError, match=text):
        deployed(service.url, 60)


def test_a_service_of_the_stack_that_follows_another_model_is_left_alone(service: StandIn, deployed: Deploy) -> None:
    service.info.update(registered_model="dogs", model_version=7)
    result = deployed(service.url, pipeline_runtime=Runtime.DOCKER)
    assert result.skipped is not None
    assert re.search(r"follows 'dogs': version 1 of 'cats' .* SERVING_REGISTERED_MODEL=cats", result.skipped)
    assert (result.answers_checked, service.received) == (0, [])


def test_a_superseded_version_is_refused_whatever_the_service_follows(
    service: StandIn, deployed: Deploy, train_run: str
) -> None:
    registry.create_version(MODEL, f"runs:/{train_run}/model", train_run, {}, "")
    registry.set_alias(MODEL, registry.CHAMPION, 2)
    service.info.update(registered_model="dogs")
    with pytest.raises(ModelError, match=r"cannot deploy version 1: champion of .* is version 2"):
        deployed(service.url, pipeline_runtime=Runtime.DOCKER)


def test_gives_up_with_what_the_service_says(service: StandIn, deployed: Deploy) -> None:
    service.info.update(model_version=7, problem="version 1 cannot be served: bad file")
    promote(1, None)
    with pytest.raises(ModelError, match=r"serves version 7 \(version 1 cannot be served: bad file\), not with cats"):
        deployed(service.url)
    assert registry.by_alias(MODEL) is None


def test_the_alias_moves_while_it_waits(service: StandIn, deployed: Deploy, train_run: str) -> None:
    service.info["model_version"] = None
    registry.create_version(MODEL, f"runs:/{train_run}/model", train_run, {}, "")
    service.at_info = lambda: registry.set_alias(MODEL, registry.CHAMPION, 2)
    with pytest.raises(ModelError, match=r"cannot deploy version 1: champion of .* is version 2"):
        deployed(service.url, 60)


def test_no_champion(service: StandIn, deployed: Deploy) -> None:
    MlflowClient().delete_registered_model_alias(MODEL, registry.CHAMPION)
    with pytest.raises(ModelError, match="cannot deploy version 1: champion of 'cats' does not exist"):
        deployed(service.url)
    assert service.asked == 0


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (None, "has no probes.json"),
        ({"tolerance": 0.1, "probes": []}, "is damaged"),
        ({**REFERENCE, "tolerance": -1}, "is damaged"),
        ({"tolerance": 0.1, "probes": [{**REFERENCE["probes"][0], "png": "%%%"}]}, "is damaged"),  # type: ignore[index]
    ],
)
def test_useless_reference_predictions(
    settings: Settings, service: StandIn, deployed: Deploy, document: dict[str, Any] | None, text: str
) -> None:
    with mlflow.start_run(experiment_id=connect(settings)) as evaluate:
        if document is not None:
            mlflow.log_dict(document, "probes.json")
    MlflowClient().set_model_version_tag(MODEL, "1", "pipeline.evaluate_run_id", evaluate.info.run_id)
    with pytest.raises(DataError, match=text):
        deployed(service.url)
    assert service.asked == 0


def test_a_version_not_made_by_the_pipeline(service: StandIn, deployed: Deploy) -> None:
    MlflowClient().delete_model_version_tag(MODEL, "1", "pipeline.evaluate_run_id")
    with pytest.raises(DataError, match=r"has no tag 'pipeline\.evaluate_run_id'"):
        deployed(service.url)


class Elsewhere(BaseHTTPRequestHandler):
    """Some other web server: GET only."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("greeting", [None, b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_another_program_on_the_port(deployed: Deploy, train_run: str, greeting: bytes | None) -> None:
    def greet(server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the test closed it
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(greeting or b"")
                    connection.recv(65536)

    if greeting is None:
        with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as web:
            threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
            with pytest.raises(ModelError, match="answered by another program"):
                deployed(f"http://127.0.0.1:{web.server_port}", 60)
            web.shutdown()
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, args=(server,), daemon=True).start()
        with pytest.raises(ModelError, match="answered by another program"):
            deployed(f"http://127.0.0.1:{server.getsockname()[1]}", 60)


@pytest.mark.parametrize(
    ("url", "runtime"),
    [("http://127.0.0.1:21341", Runtime.DOCKER), ("http://serving.invalid:3000", Runtime.LOCAL)],
)
def test_starts_nothing_that_is_not_on_this_machine(
    deployed: Deploy, train_run: str, settings: Settings, url: str, runtime: Runtime
) -> None:
    with pytest.raises(ModelError, match=r"does not answer, not with cats version 1; start it|has no address"):
        deployed(url, 5, pipeline_runtime=runtime)
    assert process.find(settings.pipeline_home) is None


def test_a_service_that_dies_at_once_says_why(
    deployed: Deploy, train_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_MODEL", "latest")
    with pytest.raises(ModelError, match=r"ended at once \(exit code 78\): .*SERVING_MODEL='latest' names no"):
        deployed("http://127.0.0.1:21342", 60)


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://"])
def test_an_address_that_is_none(deployed: Deploy, train_run: str, url: str) -> None:
    with pytest.raises(SettingsError, match="SERVING_URL"):
        deployed(url)


def test_needs_neither_torch_nor_bentoml_nor_numpy() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'bentoml', 'numpy', 'pandas', 'PIL'): sys.modules[name] = None\n"
        "import tasks.stages.deploy"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
