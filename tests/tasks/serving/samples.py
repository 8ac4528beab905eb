"""What the tests of the service share: small models, pictures, and handles on a store and a running service."""

from __future__ import annotations

import base64
import io
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import requests
import torch
from mlflow import MlflowClient
from PIL import Image

from tasks.records import ledger, model_store, registry
from tasks.serving.model import ServedModel
from tasks.serving.model_reference import Target, parse
from tasks.serving.preparation import prepared_model
from tasks.serving.reference_check import open_verified
from tasks.serving.resolution import resolve
from tasks.settings import Settings
from tasks.vision.data.images import decode
from tests import logged_models, stored_files

CLASSES = ["dark", "grey", "bright"]
MODEL = "vision-classifier"
WORKERS = 2


def free_port() -> int:
    """A port that nobody listens on: another session's service must not answer this one's tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Brightness(torch.nn.Module):
    """Answers by mean brightness; `order` permutes the answers, so that two versions differ."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        centres = torch.tensor([0.1, 0.5, 0.9])[order]
        self.register_buffer("centres", centres)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = images.to(torch.float32).mean(dim=(1, 2, 3)) / 255
        return torch.softmax(-20 * (brightness[:, None] - self.centres) ** 2, 1)


def picture(brightness: int, side: int = 8, file_format: str = "PNG") -> bytes:
    """A grey square as a file."""
    data = io.BytesIO()
    Image.new("L", (side, side), brightness).save(data, file_format)
    return data.getvalue()


@dataclass(frozen=True)
class Store:
    """Versions 1 and 2 of MODEL exist; `champion` names 1; `run_ids` are their runs."""

    settings: Settings
    run_ids: list[str]

    def promote(self, version: int) -> None:
        promote(version)


def new_run() -> mlflow.ActiveRun:
    """Start a run in the tests' experiment, which is never made the active one: that would outlast the test."""
    [experiment] = MlflowClient().search_experiments(filter_string="name = 'tests'")
    return mlflow.start_run(experiment_id=experiment.experiment_id)


def log_model(module: torch.nn.Module, *, batch: int = 4, onnx: bool = True) -> tuple[str, str]:
    """Log a model as train does, or as earlier releases did, without an ONNX form; return run ID and model URI."""
    log = logged_models.log_model if onnx else logged_models.log_without_onnx
    with new_run() as run:
        uri = log(module, np.zeros((batch, 1, 8, 8), np.uint8), CLASSES, {"architecture": "brightness", "sha256": "s"})
    return run.info.run_id, uri


def load(target: Target) -> ServedModel:
    """Open a model as the service does, in this process."""
    with prepared_model(target) as prepared:
        return open_verified(prepared)


def log_reference_predictions(version: int) -> None:
    """What evaluate and register leave behind for deploy."""
    model = load(resolve(parse(str(version), MODEL)))
    predictions = []
    for value in (0, 128, 255):
        row = model.predict(decode(picture(value), 1, 8)[None])[0]
        png = base64.b64encode(picture(value)).decode()
        label = model.classes[int(row.argmax())]
        predictions.append({"name": f"grey {value}", "png": png, "probabilities": row.tolist(), "class": label})
    with new_run() as run:
        mlflow.log_dict({"tolerance": 1e-3, "probes": predictions}, "probes.json")
    MlflowClient().set_model_version_tag(MODEL, str(version), "pipeline.evaluate_run_id", run.info.run_id)


def promote(version: int) -> None:
    """Make a version champion with a record, unless it is."""
    champion = registry.by_alias(MODEL)
    before = int(champion.version) if champion else None
    if before != version or not ledger.is_recorded(MODEL, version):
        move(ledger.Kind.PROMOTION, before, version)


def move(kind: ledger.Kind, before: int | None, after: int, registered_model: str = MODEL) -> None:
    """Make a version champion and tell the ledger, as register does."""
    key = f"test/{time.time_ns()}"
    ledger.move_champion(ledger.Entry(key, kind, registered_model, before, after, after, f"sha{after}", "a test", ""))


def damage(uri: str) -> None:
    """Change one bit of a logged model's weights in the store."""
    file = stored_files.of_model(uri) / model_store.ONNX
    content = np.frombuffer(file.read_bytes(), np.uint8).copy()
    content[len(content) // 2] ^= 1
    file.write_bytes(content.tobytes())


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Environment of a service process on a store."""
    return {
        **os.environ,
        "PIPELINE_HOME": str(settings.pipeline_home),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "SERVING_URL": settings.serving_url,
        "SERVING_POLL_SECONDS": "0.2",
        "SERVING_WORKERS": str(WORKERS),
        "SERVING_MAX_UPLOAD_MB": "2",
        "SERVING_ALLOWED_ORIGINS": "https://shop.example",
        **more,
    }


@dataclass(frozen=True)
class Service:
    """The running service."""

    url: str
    pid: int
    seconds_to_ready: float

    def post(self, path: str, **arguments: object) -> requests.Response:
        return requests.post(f"{self.url}/{path}", timeout=120, **arguments)  # type: ignore[arg-type]

    def info(self) -> dict[str, object]:
        return dict(self.post("get_model_info").json())

    def workers(self) -> list[int]:
        """Process IDs of the workers."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()  # each thread has its own children
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    def memory(self) -> int:
        """Resident bytes of all its processes."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (self.pid, *self.workers())]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def peaks(self) -> dict[int, int]:
        """The most bytes that each of its processes has had resident, also those that decode."""
        pids = [self.pid, *self.workers()]
        pids += [pid for worker in self.workers() for pid in _children(worker)]
        found = {}
        for pid in pids:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found[pid] = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
        return found


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
