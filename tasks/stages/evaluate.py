"""evaluate: score a trained model on the test images, beside the champion, and give the verdict."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow import MlflowClient
from numpy.typing import NDArray
from PIL import Image

from tasks import gold_store, registry
from tasks.contract import EvaluateRequest, EvaluateResult
from tasks.errors import ModelError
from tasks.gate import GatePolicy, Scores, Verdict, decide
from tasks.settings import Settings
from tasks.tracking import StageRun, tag_of, use_datasets
from tasks.vision.devices import prepare_cpu
from tasks.vision.evaluation_plots import confusion_figure, per_class_figure
from tasks.vision.gold import Gold, Split
from tasks.vision.scoring import BATCH, ClassScores, latency, predict, score

PROBES = 5
TOLERANCE = 1e-3  # between evaluate's probabilities and the service's, both on a CPU

log = logging.getLogger("tasks.evaluate")


@dataclass(frozen=True)
class _Loaded:
    """A logged model in memory, with what its MLmodel file says of it."""

    network: torch.nn.Module
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    size_bytes: int


def run(request: EvaluateRequest, run: StageRun, settings: Settings) -> EvaluateResult:
    """Score the model of `request.train_run_id`, compare it with the champion, log evidence and verdict.

    Raises:
        DataError: the train run or its gold is missing.
        ModelError: the model does not answer for the classes of its data, or the champion knows other classes.
    """
    model_uri = tag_of(request.train_run_id, "pipeline.logged_model_uri")
    prepare_run_id = tag_of(request.train_run_id, "pipeline.prepare_run_id")
    gold = gold_store.fetch(prepare_run_id)
    prepare_cpu(BATCH * math.prod(gold.shape))
    use_datasets(run, prepare_run_id, "testing")
    registry.require_same_classes(request.registered_model, gold.classes)
    champion = registry.by_alias(request.registered_model)
    champion_version = int(champion.version) if champion else None

    candidate = _load(model_uri, gold)
    probabilities = predict(candidate.network, gold.test.images, candidate.shape)
    scores = score(gold.test.labels, probabilities)
    log.info("candidate: accuracy %.4f, macro F1 %.4f", scores.accuracy, scores.macro_f1)

    rival = rival_probabilities = None
    if champion is not None and champion.source != model_uri:
        loaded = _load(f"models:/{request.registered_model}/{champion.version}", gold)
        rival_probabilities = predict(loaded.network, gold.test.images, loaded.shape)
        rival = score(gold.test.labels, rival_probabilities)
        log.info("champion, version %s: accuracy %.4f, macro F1 %.4f", champion.version, rival.accuracy, rival.macro_f1)
    elif champion is not None:
        rival, rival_probabilities = scores, probabilities

    policy = GatePolicy(min_accuracy=request.min_accuracy, min_macro_f1=request.min_macro_f1)
    verdict = decide(_gate_scores(scores), _gate_scores(rival) if rival else None, champion_version, policy)
    log.info("verdict: %s", verdict.reason)

    timing = latency(candidate.network, gold.test.images, candidate.shape)
    metrics = {
        "test_accuracy": scores.accuracy,
        "test_macro_f1": scores.macro_f1,
        "test_images": float(len(gold.test.labels)),
        "model_size_bytes": float(candidate.size_bytes),
        "latency_single_p50_ms": timing.single_p50_ms,
        "latency_single_p95_ms": timing.single_p95_ms,
        "batch_images_per_second": timing.batch_images_per_second,
    }
    if rival is not None:
        metrics |= {"champion_test_accuracy": rival.accuracy, "champion_test_macro_f1": rival.macro_f1}
    mlflow.log_metrics(metrics, model_id=model_uri.removeprefix("models:/"))
    _log_evidence(run.run_id, gold, scores, probabilities, rival_probabilities)
    _log_verdict(request, verdict)
    return EvaluateResult(
        **run.baton,
        accuracy=scores.accuracy,
        macro_f1=scores.macro_f1,
        promote=verdict.promote,
        reason=verdict.reason,
        champion_version=champion_version,
        champion_accuracy=rival.accuracy if rival else None,
    )


def _load(model_uri: str, gold: Gold) -> _Loaded:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=folder))
        metadata = mlflow.models.Model.load(str(path)).metadata or {}
        classes = tuple(metadata.get("classes", ()))
        if classes != gold.classes:
            raise ModelError(
                f"{model_uri} knows the classes {list(classes)[:5]}, the data have {list(gold.classes)[:5]}; "
                "evaluate it on the data it was trained on"
            )
        channels, height, width = metadata["input"]
        return _Loaded(
            network=mlflow.pytorch.load_model(str(path)),
            classes=classes,
            shape=(channels, height, width),
            size_bytes=sum(file.stat().st_size for file in (path / "data").rglob("*") if file.is_file()),
        )


def _gate_scores(scores: ClassScores) -> Scores:
    return Scores(accuracy=scores.accuracy, macro_f1=scores.macro_f1)


def _log_verdict(request: EvaluateRequest, verdict: Verdict) -> None:
    """Write the verdict last: a run that has one has all its evidence."""
    mlflow.log_dict(verdict.model_dump(mode="json") | {"reason": verdict.reason}, "verdict.json")
    mlflow.set_tags({"pipeline.train_run_id": request.train_run_id, "pipeline.promote": str(verdict.promote).lower()})


def _log_evidence(
    run_id: str,
    gold: Gold,
    scores: ClassScores,
    probabilities: NDArray[np.float32],
    rival: NDArray[np.float32] | None,
) -> None:
    names = np.array(gold.classes)
    per_class = {
        "class": list(gold.classes),
        "precision": scores.precision.round(6).tolist(),
        "recall": scores.recall.round(6).tolist(),
        "f1": scores.f1.round(6).tolist(),
        "images": scores.support.tolist(),
    }
    predictions: dict[str, list[Any]] = {
        "image": list(gold.test.names),
        "class": names[gold.test.labels].tolist(),
        "predicted": names[probabilities.argmax(1)].tolist(),
        "probability": probabilities.max(1).astype(float).round(6).tolist(),
        "correct": (probabilities.argmax(1) == gold.test.labels).tolist(),
    }
    if rival is not None:
        predictions["champion_predicted"] = names[rival.argmax(1)].tolist()
        predictions["champion_probability"] = rival.max(1).astype(float).round(6).tolist()
    _log_tables(run_id, {"per_class.json": per_class, "predictions.json": predictions})
    mlflow.log_figure(confusion_figure(scores, gold.classes), "plots/confusion_matrix.png")
    mlflow.log_figure(per_class_figure(scores, gold.classes), "plots/per_class.png")
    mlflow.log_dict(
        {"tolerance": TOLERANCE, "probes": make_probes(gold.test, gold.classes, probabilities)}, "probes.json"
    )


def _log_tables(run_id: str, tables: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Log tables as `mlflow.log_table` does, but replacing: that one appends, so a retry would double every row."""
    for name, columns in tables.items():
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        mlflow.log_text(json.dumps({"columns": list(columns), "data": rows}), name)
    # The tag by which MLflow's pages and `mlflow.load_table` know an artifact for a table.
    entries = [{"path": name, "type": "table"} for name in tables]
    MlflowClient().set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(entries))


def make_probes(test: Split, classes: Sequence[str], probabilities: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Choose test images, spread over the classes, with the answers that the service must give to them too.

    Each is a PNG (lossless, so the service sees these very pixels) in base64, with its probabilities.
    """
    firsts = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)]
    spread = np.linspace(0, len(firsts) - 1, min(PROBES, len(firsts))).round().astype(int)
    chosen = [firsts[position] for position in spread]
    probes = []
    for index in chosen:
        pixels = test.images[index]
        image = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        probes.append(
            {
                "name": test.names[index],
                "png": base64.b64encode(buffer.getvalue()).decode(),
                "class": classes[int(probabilities[index].argmax())],
                "probabilities": [float(p) for p in probabilities[index]],
            }
        )
    return probes
