"""What evaluate leaves in MLflow for people and for later stages: tables, plots, probe images, the report."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from numpy.typing import NDArray

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.evidence import Evidence, Slice
from tasks.gate.verdict import Verdict
from tasks.vision.data import images
from tasks.vision.data.gold import Gold, Split
from tasks.vision.evaluation import report
from tasks.vision.evaluation.report import Answers
from tasks.vision.evaluation.scoring import ClassScores

PROBES = 5
DPI = 110
TOLERANCE = 1e-3  # between evaluate's probabilities and the service's, both on a CPU


def log_tables(
    run_id: str,
    gold: Gold,
    scores: ClassScores,
    slices: Sequence[Slice],
    probabilities: NDArray[np.float32],
    rival: NDArray[np.float32] | None,
) -> None:
    """Log per-class figures, slices, and both models' predictions, one row per test image.

    `rival` are the champion's answers, the candidate's own where these are the same weights.
    """
    names = np.array(gold.classes)
    per_class = {
        "class": list(gold.classes),
        "precision": scores.precision.round(6).tolist(),
        "recall": scores.recall.round(6).tolist(),
        "f1": scores.f1.round(6).tolist(),
        "images": scores.support.tolist(),
    }
    by_slice = {name: [getattr(part, name) for part in slices] for name in Slice.model_fields}
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
        predictions["champion_correct"] = (rival.argmax(1) == gold.test.labels).tolist()
    _log_as_tables(run_id, {"per_class.json": per_class, "slices.json": by_slice, "predictions.json": predictions})


def log_report(
    title: str,
    facts: Mapping[str, str],
    gold: Gold,
    evidence: Evidence,
    verdict: Verdict,
    policy: GatePolicy,
    candidate: Answers,
    champion: Answers | None,
) -> None:
    """Log the plots, and `report.html` that shows them; arguments as in `tasks.vision.evaluation.report`."""
    pictures = {}
    with tempfile.TemporaryDirectory(prefix="plots-") as folder:
        for name, figure in report.plots(gold, evidence, policy, candidate, champion).items():
            path = Path(folder) / f"{name}.png"
            figure.savefig(path, dpi=DPI)
            pictures[name] = path.read_bytes()
        mlflow.log_artifacts(folder, "plots")
    mlflow.log_text(report.render(title, facts, gold, evidence, verdict, pictures, candidate, champion), "report.html")


def log_probes(gold: Gold, probabilities: NDArray[np.float32]) -> None:
    """Log the test images, and the answers to them, that the service and deploy compare."""
    probes = make_probes(gold.test, gold.classes, probabilities)
    mlflow.log_dict({"tolerance": TOLERANCE, "probes": probes}, "probes.json")


def make_probes(test: Split, classes: Sequence[str], probabilities: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Choose test images, spread over the classes, with the answers that the service must give to them too.

    Each is a PNG (lossless, so the service sees these very pixels) in base64, with its probabilities.
    """
    firsts = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)]
    spread = np.linspace(0, len(firsts) - 1, min(PROBES, len(firsts))).round().astype(int)
    chosen = [firsts[position] for position in spread]
    probes = []
    for index in chosen:
        probes.append(
            {
                "name": test.names[index],
                "png": base64.b64encode(images.encode(test.images[index])).decode(),
                "class": classes[int(probabilities[index].argmax())],
                "probabilities": [float(p) for p in probabilities[index]],
            }
        )
    return probes


def _log_as_tables(run_id: str, tables: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Log tables as `mlflow.log_table` does, but replacing: that one appends, so a retry would double every row."""
    for name, columns in tables.items():
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        mlflow.log_text(json.dumps({"columns": list(columns), "data": rows}), name)
    # The tag by which MLflow's pages and `mlflow.load_table` know an artifact for a table.
    entries = [{"path": name, "type": "table"} for name in tables]
    MlflowClient().set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(entries))
