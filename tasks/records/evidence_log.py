"""What evaluate logs to MLflow for people and later stages: tables, plots, the report, reference predictions."""

from __future__ import annotations

import base64
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.evidence import Cost, Evidence, Slice
from tasks.gate.verdict import Verdict
from tasks.records import reference_predictions, verified_artifacts
from tasks.records.transient_errors import as_unavailable
from tasks.records.verdict_log import read_evidence
from tasks.vision.data import images
from tasks.vision.data.gold import Gold, Split
from tasks.vision.evaluation import report, suspected_labels
from tasks.vision.evaluation.scoring import Answers, ClassScores
from tasks.vision.evaluation.suspected_labels import Suspect

REFERENCE_IMAGES = 5
DPI = 110
TOLERANCE = 1e-3  # between evaluate's probabilities and the service's, both on a CPU
# The last bit of a float depends on how many images are in a batch; rounded to eight bits, it can be a whole step.
ROUNDED_TOLERANCE = 2e-2  # largest difference seen: 0.004
SMALL = 1e-9  # in place of a latency or size of zero

log = logging.getLogger("tasks.evaluate")


def log_tables(
    run_id: str,
    gold: Gold,
    scores: ClassScores,
    slices: Sequence[Slice],
    probabilities: NDArray[np.float32],
    champion: NDArray[np.float32] | None,
    suspects: Sequence[Suspect],
) -> None:
    """Log per-class figures, slices, both models' predictions (one row per test image), and suspected labels.

    `champion` are the champion's probabilities: the candidate's own if both have the same weights.
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
    if champion is not None:
        predictions["champion_predicted"] = names[champion.argmax(1)].tolist()
        predictions["champion_probability"] = champion.max(1).astype(float).round(6).tolist()
        predictions["champion_correct"] = (champion.argmax(1) == gold.test.labels).tolist()
    suspected = list(suspected_labels.rows(suspects, gold.classes))
    by_column = {name: [row[i] for row in suspected] for i, name in enumerate(suspected_labels.COLUMNS)}
    _log_as_tables(
        run_id,
        {
            "per_class.json": per_class,
            "slices.json": by_slice,
            "predictions.json": predictions,
            "suspected_labels.json": by_column,
        },
    )
    with tempfile.TemporaryDirectory(prefix="suspected-") as folder:  # the same as a file that prepare reads
        path = Path(folder) / suspected_labels.FILE
        suspected_labels.write(suspects, gold.classes, path)
        mlflow.log_artifact(str(path))


def log_report(
    title: str,
    facts: Mapping[str, str],
    gold: Gold,
    evidence: Evidence,
    verdict: Verdict,
    policy: GatePolicy,
    candidate: Answers,
    champion: Answers | None,
    regions: Mapping[int, NDArray[np.float32]],
    suspects: Sequence[Suspect],
) -> None:
    """Log the plots, and `report.html` that shows them; arguments as in `tasks.vision.evaluation.report`."""
    pictures = {}
    with tempfile.TemporaryDirectory(prefix="plots-") as folder:
        for name, figure in report.plots(gold, evidence, policy, candidate, champion, suspects).items():
            path = Path(folder) / f"{name}.png"
            figure.savefig(path, dpi=DPI)
            pictures[name] = path.read_bytes()
        mlflow.log_artifacts(folder, "plots")
    page = report.render(title, facts, gold, evidence, verdict, pictures, candidate, champion, regions, suspects)
    mlflow.log_text(page, "report.html")


def log_reference_predictions(gold: Gold, probabilities: NDArray[np.float32], *, rounded: bool) -> None:
    """Log some test images with the model's answers, with which the service and deploy compare theirs.

    Args:
        gold: the test images.
        probabilities: the answers.
        rounded: whether the model calculates with integers.
    """
    predictions = make_reference_predictions(gold.test, gold.classes, probabilities)
    tolerance = ROUNDED_TOLERANCE if rounded else TOLERANCE
    text = json.dumps({"tolerance": tolerance, "probes": predictions}, indent=2)
    verified_artifacts.log_texts({reference_predictions.FILE: text})


def uncompressed_cost(cost: Cost, evaluate_run_id: str | None) -> Cost | None:
    """Estimate what a compressed model would cost had it not been compressed.

    Args:
        cost: of the compressed model, as it is measured now.
        evaluate_run_id: the run that measured it before and after its compression; None: it was not compressed.

    Returns:
        `cost`, by the ratios measured then, if they are above 1; None for a model that was not compressed, or whose
        evidence is gone.

    Raises:
        ChangedError: the evidence is not what evaluate logged.
    """
    if evaluate_run_id is None:
        return None
    try:
        evidence = read_evidence(evaluate_run_id)
    except (MlflowException, OSError, ValueError) as error:
        if as_unavailable(error) is not None:
            raise
        log.warning("what the champion cost before a compression is not known: %s", error)
        return None
    now, before = evidence.cost, evidence.compression.cost if evidence.compression else None
    if now is None or before is None:
        return None
    ratios = {name: max(1.0, getattr(before, name) / max(getattr(now, name), SMALL)) for name in Cost.model_fields}
    return Cost(**{name: getattr(cost, name) * ratio for name, ratio in ratios.items()})


def make_reference_predictions(
    test: Split, classes: Sequence[str], probabilities: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Choose test images, spread over the classes, with the answers that the service must give too.

    Each is a PNG (lossless, so the service sees the same pixels) in base64, with its probabilities.
    """
    firsts = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)]
    spread = np.linspace(0, len(firsts) - 1, min(REFERENCE_IMAGES, len(firsts))).round().astype(int)
    chosen = [firsts[position] for position in spread]
    predictions = []
    for index in chosen:
        predictions.append(
            {
                "name": test.names[index],
                "png": base64.b64encode(images.encode(test.images[index])).decode(),
                "class": classes[int(probabilities[index].argmax())],
                "probabilities": [float(p) for p in probabilities[index]],
            }
        )
    return predictions


def _log_as_tables(run_id: str, tables: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Log tables as `mlflow.log_table` does, but overwrite: that one appends, so a retry would double every row."""
    texts = {}
    for name, columns in tables.items():
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        texts[name] = json.dumps({"columns": list(columns), "data": rows})
    verified_artifacts.log_texts(texts)
    # The tag by which MLflow's pages and `mlflow.load_table` recognise an artifact as a table.
    entries = [{"path": name, "type": "table"} for name in tables]
    MlflowClient().set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(entries))
