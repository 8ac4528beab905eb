"""Gold and trained models whose answers are known beforehand: each image says its own label, in its first pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import EvaluateRequest, EvaluateResult
from tasks.records import artifact_digest, gold_store, model_store, registry, tracking
from tasks.records.inputs.evaluation import EvaluateInputs
from tasks.serving import opened_model
from tasks.serving.load_check import LoadCheck, load_and_answer
from tasks.settings import Settings
from tasks.stages import evaluate
from tasks.vision.data.gold import Gold, Split
from tasks.vision.evaluation.scoring import Latency
from tasks.vision.models import onnx_form
from tests.logged_models import convert_once, log_model, log_without_onnx
from tests.tasks.stages.compression_pipeline import Pipeline
from tests.tasks.store_copies import Beginnings

CLASSES = ("ant", "bee", "cat", "dog")
SHAPE = (1, 8, 8)
TEST_IMAGES = 10  # of each class: enough to prove that a model which knows one class more is better
TrainRun = Callable[..., str]
Evaluate = Callable[..., EvaluateResult]


class PixelReader(torch.nn.Module):
    """Answers with the class that `table` holds for the first pixel's value."""

    table: torch.Tensor

    def __init__(self, table: list[int], classes: int) -> None:
        super().__init__()
        answers = torch.full((len(table), classes), 0.1 / (classes - 1))
        answers[range(len(table)), table] = 0.9
        self.register_buffer("table", answers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(images[:, 0, 0, 0].long().clamp(max=len(self.table) - 1), self.table)


def split(name: str, per_class: int, classes: int) -> Split:
    labels = np.repeat(np.arange(classes), per_class).astype(np.int64)
    images = np.random.default_rng(0).integers(0, 255, (len(labels), *SHAPE), np.uint8)
    images[:, 0, 0, 0] = labels
    return Split(images, labels, tuple(f"{name}/{CLASSES[label]}/{i}.png" for i, label in enumerate(labels)))


def make_gold(classes: int = 4) -> Gold:
    return Gold(
        train=split("train", 3, classes),
        validation=split("train", 1, classes),
        test=split("test", TEST_IMAGES, classes),
        classes=CLASSES[:classes],
        mean=(0.5,),
        std=(0.2,),
        fingerprint="f" * 64,
        dataset="digits",
    )


@pytest.fixture(autouse=True)
def trial_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real trial, without the seconds that a new process spends on imports; tests/tasks/serving has it whole.

    The memory of this process is not the model's own.
    """

    @contextmanager
    def load_check(folder: Path) -> Iterator[Callable[[], LoadCheck]]:
        trial = replace(load_and_answer(folder), memory_mb=50.0)
        yield lambda: trial

    monkeypatch.setattr(opened_model, "load_check", load_check)


@pytest.fixture
def drawn_plots() -> None:
    """Asked for by a test that looks at plots."""


@pytest.fixture(autouse=True)
def blank_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are files of one pixel where nobody looks at them: drawing them takes most of the time of these tests."""
    if "drawn_plots" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda self, target, **_: Image.new("L", (1, 1)).save(target, "PNG"))


@pytest.fixture(autouse=True)
def not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models are too fast to be timed beside each other."""
    monkeypatch.setattr(evaluate, "latencies", lambda models, images: [Latency(1, 1, 1)] * len(models))


@pytest.fixture(autouse=True)
def converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that come to the same bits leave the same program: its ONNX form is made once, the first time."""
    monkeypatch.setattr(onnx_form, "export", convert_once)


@pytest.fixture
def train_run(settings: Settings) -> TrainRun:
    """Make a finished train run, and the prepare run before it, for a model that answers by `table`."""

    def make(
        table: list[int],
        classes: int = 4,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        network: type[PixelReader] = PixelReader,
        onnx: bool = True,
    ) -> str:
        experiment_id = tracking.connect(settings)
        gold = make_gold(classes)
        gold = replace(gold, test=replace(gold.test, columns=columns or {}))
        with mlflow.start_run(experiment_id=experiment_id) as prepare:
            gold_store.store(gold)
            mlflow.set_tag("pipeline.gold_run_id", prepare.info.run_id)
        sha256 = hashlib.sha256(f"{network.__name__} {table}".encode()).hexdigest()
        with mlflow.start_run(experiment_id=experiment_id) as train:
            log = log_model if onnx else log_without_onnx
            uri = log(network(table, classes), gold.validation.images, gold.classes, {"sha256": sha256})
            mlflow.log_dict(list(gold.classes), "classes.json")
            mlflow.set_tags(
                {
                    "pipeline.prepare_run_id": prepare.info.run_id,
                    "pipeline.fingerprint": gold.fingerprint,
                    "pipeline.model_sha256": sha256,
                    artifact_digest.TAG: model_store.artifact_sha256(uri),
                    "pipeline.logged_model_uri": uri,
                }
            )
        return str(train.info.run_id)

    return make


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory: pytest.TempPathFactory) -> Beginnings:
    """Stores that several tests of a module begin with."""
    return Beginnings(tmp_path_factory.mktemp("beginnings"))


@pytest.fixture
def identity() -> Callable[[str], TaskIdentity]:
    """Make the identity of a task by its ID."""
    return lambda name: TaskIdentity(dag_id="daily", dag_run_id="manual__2026-01-01", task_id=name)


@pytest.fixture
def run_evaluate(settings: Settings, identity: Callable[[str], TaskIdentity]) -> Iterator[Evaluate]:
    """Evaluate what a train run logged, with the settings of the moment; torch's threads are then as before."""

    def call(train_run_id: str, **fields: object) -> EvaluateResult:
        request = EvaluateRequest.model_validate(
            {"task": identity("evaluate"), "train_run_id": train_run_id, "registered_model": "pets", **fields}
        )
        current = Settings()
        with tracking.stage_run(request, "evaluate", current) as run:
            return evaluate.run(request, EvaluateInputs.resolve(request, run), run, current)

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)


def crown(train_run_id: str) -> int:
    """Make the model of a train run the champion; its version."""
    names = ("pipeline.logged_model_uri", "pipeline.model_sha256", artifact_digest.TAG)
    source, *digests = (tracking.tag_of(train_run_id, name) for name in names)
    tags = dict(zip(names[1:], digests, strict=True))
    version = int(registry.create_version("pets", source, train_run_id, tags, "").version)
    registry.set_alias("pets", registry.CHAMPION, version)
    return version


@pytest.fixture
def pipeline(settings: Settings) -> Pipeline:
    return Pipeline(settings)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes the candidate, which is timed first, answer in so many ms; all others take 3."""

    def set_candidate(milliseconds: float) -> None:
        def latencies(models: list[Any], images: Any) -> list[Latency]:
            return [Latency(t, t, 1) for t in [milliseconds, *[3.0] * (len(models) - 1)]]

        monkeypatch.setattr(evaluate, "latencies", latencies)

    return set_candidate
