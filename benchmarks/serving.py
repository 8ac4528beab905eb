"""Serving: this project's service compared with `mlflow models serve`: same model, same machine, one run.

    python -m benchmarks.serving

The model is mobilenet_v3_small for 32x32 colour images with fresh weights, logged by the train stage's own code. Sides:

    ours                 `python -m tasks.serving`; PNG files as multipart forms, decoded by the service
    mlflow               `mlflow models serve --env-manager local`, one worker, defaults; the same pixels, already
                         decoded, as JSON {"inputs": [[[[...]]]]}: the one format it takes for a tensor signature
    mlflow, 1 thread     the same with OMP_NUM_THREADS=1, which suits a small network on few cores better

All are started in advance and take turns; meanwhile the others are paused (SIGSTOP). The client is a process of its own
with keep-alive connections, raw sockets and requests built in advance; its CPU cost is reported. Latency at a fixed
rate counts from the moment at which a request was due, so a request that queues behind a slow one includes its wait.
Images per second of the server's CPU time depend less on other load on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image

from benchmarks.http_load import Load, Report, http_request
from benchmarks.machine import cpu_model
from tasks.contract.messages import TaskIdentity
from tasks.contract.training import TrainRequest
from tasks.records import artifact_digest, model_store, registry
from tasks.records.tracking import stage_run
from tasks.settings import Settings
from tasks.vision.cpus import available_cpus
from tasks.vision.data.gold import Gold, Split
from tasks.vision.models.build import build
from tasks.vision.models.classifier import Classifier, digest

NOTES = "\n## How reliable it is\n"  # kept when the figures above it are rewritten
CLASSES = tuple(f"class {number}" for number in range(10))
SHAPE = (3, 32, 32)
BATCH = 32
RATE = 20  # requests per second of the latency measurement
WANTED_P99 = 50.0  # milliseconds
CLIENTS = {"predict_batch": 2, "singles": 8}
START_SECONDS = 180.0


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
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used."""
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[2]) == self.process.pid:  # its process group
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it."""
        os.killpg(self.process.pid, signal.SIGCONT)
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each side runs once in each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="length of each throughput run (%(default)s)")
    parser.add_argument("--latency-seconds", type=float, default=30, help="length of each latency run (%(default)s)")
    parser.add_argument("--port", type=int, default=21340, help="first of three free ports (%(default)s)")
    parser.add_argument("--write", type=Path, help="also write the report to this Markdown file, above its notes")
    options = parser.parse_args()

    images = np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), np.uint8)
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as folder, ExitStack() as stack:
        uri, settings = log_model(Path(folder), images)
        sides = start(Path(folder), uri, settings, options.port, stack)
        load = Load()
        stack.callback(load.close)
        compare_answers(sides, images)
        found = measure(sides, load, options.rounds, options.seconds, options.latency_seconds)
    text = report(found, options.rounds, options.seconds, options.latency_seconds)
    print(text)
    if options.write:
        old = options.write.read_text(encoding="utf-8") if options.write.exists() else ""
        _, heading, notes = old.partition(NOTES)
        options.write.write_text(text + heading + notes, encoding="utf-8")
    return 0


def log_model(home: Path, images: NDArray[np.uint8]) -> tuple[str, Settings]:
    """Log and promote a model with fresh weights as train and register do; return its URI and the settings."""
    settings = Settings(pipeline_home=home, mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db")
    split = Split(images, np.arange(BATCH) % len(CLASSES), tuple(map(str, range(BATCH))))
    mean = std = (0.5, 0.5, 0.5)
    gold = Gold(
        train=split, validation=split, test=split, classes=CLASSES, mean=mean, std=std,
        fingerprint="0" * 64, dataset="cifar10",
    )  # fmt: skip
    task = TaskIdentity(dag_id="benchmark", dag_run_id="benchmark", task_id="train")
    request = TrainRequest(task=task, prepare_run_id="0" * 32, model="mobilenet_v3_small")
    with stage_run(request, "train", settings) as run:
        classifier = Classifier(build(request.model, len(CLASSES), SHAPE), mean, std).eval()
        uri = model_store.log_once(classifier, gold, request.model, run)
        tags = {registry.SHA256: digest(classifier), artifact_digest.TAG: model_store.artifact_sha256(uri)}
        made = registry.create_version(settings.serving_registered_model, uri, run.run_id, tags, "")
        registry.set_alias(settings.serving_registered_model, registry.CHAMPION, int(made.version))
    return uri, settings


def start(home: Path, uri: str, settings: Settings, port: int, stack: ExitStack) -> list[Side]:
    """Start all servers, one after the other."""
    python = sys.executable
    store = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    ours = store | {"PIPELINE_HOME": str(home), "SERVING_MODEL": "champion"}
    serve = [python, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "--workers", "1", "--port"]
    sides = []
    for number, (name, command, environment) in enumerate(
        [
            ("ours", [python, "-m", "tasks.serving", "--port"], ours),
            ("mlflow", serve, store),
            ("mlflow, 1 thread", serve, store | {"OMP_NUM_THREADS": "1"}),
        ]
    ):
        url = f"http://127.0.0.1:{port + number}"
        path = os.environ["PATH"]
        environment = environment | {"SERVING_URL": url, "PATH": f"{Path(python).parent}:{path}"}
        side = Side(name, [*command, str(port + number)], url, environment, home / f"{number}.log")
        stack.callback(side.end)
        side.ready("readyz" if name == "ours" else "ping")
        os.killpg(side.process.pid, signal.SIGSTOP)
        sides.append(side)
    return sides


def compare_answers(sides: list[Side], images: NDArray[np.uint8]) -> None:
    """Build each side's requests, and check that all give the same probabilities for the same pixels."""
    files = [png(image) for image in images]
    answers = []
    for side in sides:
        if side.name == "ours":
            prepared = lambda path, files: requests.Request("POST", f"{side.url}/{path}", files=files).prepare()  # noqa: B023, E731
            side.single = [http_request(prepared("predict_image", {"image": ("a.png", file)})) for file in files]
            whole = prepared("predict_batch", [("images", ("a.png", file)) for file in files])
        else:
            prepared = lambda data: requests.Request(  # noqa: E731
                "POST",
                f"{side.url}/invocations",  # noqa: B023
                data=json.dumps({"inputs": data.tolist()}, separators=(",", ":")),
                headers={"Content-Type": "application/json"},
            ).prepare()
            side.single = [http_request(prepared(image[None])) for image in images]
            whole = prepared(images)
        side.batch = [http_request(whole)]
        with side.turn(), requests.Session() as session:
            answer = session.send(whole, timeout=60).json()["predictions"]
        answers.append([list(row["probabilities"].values()) if isinstance(row, dict) else row for row in answer])
    if not all(np.allclose(answer, answers[0], atol=1e-4) for answer in answers):
        raise SystemExit("the servers give different answers, so they do not serve the same model")


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image [C, H, W]."""
    data = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(data, "PNG")
    return data.getvalue()


Found = dict[str, dict[str, list[Report]]]


def measure(sides: list[Side], load: Load, rounds: int, seconds: float, latency_seconds: float) -> Found:
    """Let the sides take turns; return the reports by measurement and side, one per round."""
    found: Found = {"predict_batch": {}, "singles": {}, "latency": {}}

    def take(what: str, side: Side, ask: Callable[[], Report], number: int) -> None:
        before = side.cpu_seconds()
        result = ask()
        result.server_cpu = side.cpu_seconds() - before
        if number > 0:  # the first round warms up
            found[what].setdefault(side.name, []).append(result)
            print(f"round {number}: {what}: {side.name}: {result}", flush=True)

    for number in range(rounds + 1):
        length = seconds if number else 1.0
        for side in sides:
            with side.turn():
                time.sleep(0.3)
                for what, requests_, images in (("predict_batch", side.batch, BATCH), ("singles", side.single, 1)):
                    clients = CLIENTS[what]
                    take(
                        what,
                        side,
                        lambda: load.flood(side.url, requests_, clients, length, images),  # noqa: B023
                        number,
                    )
                if side.name == "ours":
                    most = latency_seconds if number else 1.0
                    take("latency", side, lambda: load.pace(side.url, side.single, RATE, most), number)  # noqa: B023
    return found


def report(found: Found, rounds: int, seconds: float, latency_seconds: float) -> str:
    """Make the Markdown report: latencies, rates, ratios to ours, machine, versions, command."""
    lines = []
    for what in ("predict_batch", "singles"):
        rates = {name: [one.images_per_second for one in reports] for name, reports in found[what].items()}
        ours = statistics.median(rates["ours"])
        for name, values in rates.items():
            cpu = statistics.median(one.images / max(one.server_cpu, 0.01) for one in found[what][name])
            middle = statistics.median(values)
            lines.append(
                f"| {what} | {name} | {min(values):.0f} | {middle:.0f} | {max(values):.0f} | {ours / middle:.2f} | "
                f"{cpu:.0f} |"
            )
    latencies = found["latency"]["ours"]
    percentiles = [(one.percentile(50), one.percentile(99)) for one in latencies]
    client = [one for reports in found["singles"].values() for one in reports]
    cost = 1e6 * sum(one.client_cpu for one in client) / sum(one.images for one in client)
    together = sorted(s for one in latencies for s in one.seconds)
    return "\n".join(
        [
            "# Serving",
            "",
            "The service compared with `mlflow models serve` on the same model, one process each, "
            "alternating. Written by",
            "`make bench-serving ARGS='--write docs/benchmarks/serving.md'`; the top of `benchmarks/serving.py` "
            "describes each side.",
            "Use an otherwise idle machine.",
            "",
            "## Latency of /predict_image at 20 requests a second",
            "",
            "| round | p50, ms | p99, ms | requests |",
            "|---|---|---|---|",
            *(
                f"| {i} | {p50:.1f} | {p99:.1f} | {len(one.seconds)} |"
                for i, ((p50, p99), one) in enumerate(zip(percentiles, latencies, strict=True), 1)
            ),
            f"| all | {1000 * together[len(together) // 2]:.1f} | {1000 * together[int(0.99 * len(together))]:.1f} | "
            f"{len(together)} |",
            "",
            f"Target: p99 under {WANTED_P99:.0f} ms.",
            "",
            "## Throughput",
            "",
            "| images per second | side | min | median | max | ours / this | per second of server CPU |",
            "|---|---|---|---|---|---|---|",
            *lines,
            "",
            f"- `predict_batch`: {BATCH} images per request, {CLIENTS['predict_batch']} clients; `singles`: one image "
            f"per request, {CLIENTS['singles']} clients; n = {rounds} rounds of {seconds:g} s after one warm-up round",
            f"- mobilenet_v3_small, {'x'.join(map(str, SHAPE))}, {len(CLASSES)} classes, fresh weights",
            f"- the client takes {cost:.0f} microseconds of CPU time per single, on the same cores",
            f"- {available_cpus()} cores of {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end",
            f"- torch {version('torch')}, mlflow {version('mlflow')}, bentoml {version('bentoml')}",
            "",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
