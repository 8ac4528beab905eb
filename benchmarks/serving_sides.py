"""The servers that `benchmarks.serving` compares: how each is started, asked and paused."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image

from benchmarks.http_load import http_request
from tasks.contract.messages import TaskIdentity
from tasks.contract.training import TrainRequest
from tasks.records import artifact_digest, ledger, model_store, registry
from tasks.records.tracking import stage_run
from tasks.settings import Settings
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold, Split
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, digest

CLASSES = tuple(f"class {number}" for number in range(10))
BATCH = 32
START_SECONDS = 180.0
OURS, ALL_CORES, STARLETTE, BENTOML, MLFLOW = "ours", "ours, all cores", "starlette", "bentoml", "mlflow"


class Side:
    """One server: how it is started and queried."""

    def __init__(self, name: str, command: list[str], url: str, environment: dict[str, str], log: Path) -> None:
        """Start the server; see `ready`."""
        self.name = name
        self.url = url
        self.single: list[bytes] = []
        self.batch: list[bytes] = []
        with log.open("wb") as file:
            self.process = subprocess.Popen(  # noqa: S603  # commands made in this file
                command, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._log = log

    def ready(self, path: str) -> None:
        """Wait until the path answers 200."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not start:\n{self._log.read_text()[-2000:]}")
            try:
                if requests.get(f"{self.url}/{path}", timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.2)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run inside the context, and pause it afterwards."""
        self._send(signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def pause(self) -> None:
        """Stop it until its next turn."""
        self._send(signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self._processes()) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it."""
        self._send(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for pid, _ in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _processes(self) -> list[tuple[int, list[str]]]:
        """Process ID and the fields of /proc/PID/stat, from the third on, of each of its processes."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[3]) == self.process.pid:  # its session
                found.append((int(stat.parent.name), fields))
        return found


def log_model(home: Path, network: str, images: NDArray[np.uint8]) -> Settings:
    """Log and promote a network with fresh weights as train and register do; return the settings of its store."""
    shape = images.shape[1:]
    settings = Settings(pipeline_home=home, mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db")
    split = Split(images, np.arange(len(images)) % len(CLASSES), tuple(map(str, range(len(images)))))
    mean = std = (0.5, 0.5, 0.5)
    gold = Gold(
        train=split, validation=split, test=split, classes=CLASSES, mean=mean, std=std,
        fingerprint="0" * 64, dataset="cifar10",
    )  # fmt: skip
    task = TaskIdentity(dag_id="benchmark", dag_run_id="benchmark", task_id="train")
    request = TrainRequest(task=task, prepare_run_id="0" * 32, model=network)
    with stage_run(request, "train", settings) as run:
        classifier = Classifier(build(network, len(CLASSES), shape), mean, std).eval()
        uri = model_store.log_once(classifier, gold, network, run)
        tags = {registry.SHA256: digest(classifier), artifact_digest.TAG: model_store.artifact_sha256(uri)}
        made = registry.create_version(settings.serving_registered_model, uri, run.run_id, tags, "")
        number, sha256 = int(made.version), tags[registry.SHA256]
        ledger.move_champion(
            ledger.Entry(
                "benchmark", ledger.Kind.PROMOTION, made.name, None, number, number, sha256, "benchmark", "benchmark"
            )
        )
    return settings


def start(home: Path, settings: Settings, port: int, stack: ExitStack) -> list[Side]:
    """Start all servers, one after the other."""
    python, model = sys.executable, f"models:/{settings.serving_registered_model}@{registry.CHAMPION}"
    onnx = next(home.rglob(Path(model_store.ONNX).name))
    store = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    ours = store | {"PIPELINE_HOME": str(home), "SERVING_MODEL": registry.CHAMPION, "SERVING_WORKERS": "1"}
    all_cores = ours | {"PIPELINE_HOME": str(home / "all-cores"), "SERVING_WORKERS": str(available_cpus())}
    mlflow = [python, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--workers", "1"]
    one_thread = {"OMP_NUM_THREADS": "1"}
    bento = {"BENTOML_HOME": str(home / "bento"), "BENTOML_DO_NOT_TRACK": "True"}
    commands = {
        OURS: ([python, "-m", "tasks.serving", "--port"], ours, "readyz"),
        ALL_CORES: ([python, "-m", "tasks.serving", "--port"], all_cores, "readyz"),
        STARLETTE: ([python, "-m", "benchmarks.serving_starlette", str(onnx)], {}, "livez"),
        BENTOML: ([python, "-m", "benchmarks.serving_bentoml", str(onnx)], bento, "livez"),
        MLFLOW: ([*mlflow, "--port"], store | one_thread, "ping"),
    }
    sides = []
    for number, (name, (command, environment, path)) in enumerate(commands.items(), start=port):
        url = f"http://127.0.0.1:{number}"
        found = {"SERVING_URL": url, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
        side = Side(name, [*command, str(number)], url, environment | found, home / f"{name}.log")
        stack.callback(side.end)
        side.ready(path)
        side.pause()
        sides.append(side)
    return sides


def compare_answers(sides: list[Side], images: NDArray[np.uint8]) -> None:
    """Build each side's requests, and check that all give the same probabilities for the same pixels."""
    files = [png(image) for image in images]
    answers = []
    for side in sides:
        if side.name == MLFLOW:
            side.single = [http_request(_json(side, image[None])) for image in images]
            side.batch = [http_request(_json(side, images))]
        else:
            side.single = [http_request(_form(side, "predict_image", [("image", file)])) for file in files]
            side.batch = [http_request(_form(side, "predict_batch", [("images", file) for file in files]))]
        if side.name in {STARLETTE, BENTOML}:
            side.batch = []  # they take one image
        with side.turn(), requests.Session() as session:
            if side.name == MLFLOW:
                answers.append(session.send(_json(side, images[:1]), timeout=60).json()["predictions"][0])
            else:
                answer = session.send(_form(side, "predict_image", [("image", files[0])]), timeout=60).json()
                answers.append(list(answer["probabilities"].values()))
    if not all(np.allclose(answer, answers[0], atol=1e-4) for answer in answers):
        raise SystemExit("the servers give different answers, so they do not serve the same model")


def _form(side: Side, path: str, files: list[tuple[str, bytes]]) -> requests.PreparedRequest:
    named = [(field, ("a.png", file)) for field, file in files]
    return requests.Request("POST", f"{side.url}/{path}", files=named).prepare()


def _json(side: Side, images: NDArray[np.uint8]) -> requests.PreparedRequest:
    data = json.dumps({"inputs": images.tolist()}, separators=(",", ":"))
    return requests.Request(
        "POST", f"{side.url}/invocations", data=data, headers={"Content-Type": "application/json"}
    ).prepare()


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image [C, H, W]."""
    data = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(data, "PNG")
    return data.getvalue()
