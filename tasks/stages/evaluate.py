"""evaluate: compare a trained model with the champion on the same test images; log evidence and verdict to MLflow."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import mlflow
import numpy as np
from numpy.typing import NDArray

from tasks.contract.promotion import EvaluateRequest, EvaluateResult
from tasks.gate.decision import decide
from tasks.gate.evidence import Champion, Compression, Evidence, Scores
from tasks.records import evidence_log, gold_store, registry
from tasks.records.inputs.evaluation import CurrentChampion, EvaluateInputs
from tasks.records.metric_log import log_values
from tasks.records.tracking import StageRun, use_datasets
from tasks.records.verdict_log import log_verdict
from tasks.serving.fetched_model import FetchedModel, fetched
from tasks.serving.load_check import MEGABYTE
from tasks.serving.opened_model import OpenedModel, opened
from tasks.settings import Settings
from tasks.vision.data.gold import Gold
from tasks.vision.devices import prepare_cpu
from tasks.vision.evaluation import suspected_labels
from tasks.vision.evaluation.comparison import compare
from tasks.vision.evaluation.decisive_regions import decisive_regions
from tasks.vision.evaluation.galleries import worst_mistakes
from tasks.vision.evaluation.scoring import (
    BATCH,
    Answers,
    Latency,
    latencies,
)
from tasks.vision.evaluation.slices import slices_of

if TYPE_CHECKING:
    from tasks.serving.model_workers import ModelWorkers

Timings: TypeAlias = Mapping[int, Latency]  # by the identity of a model in memory

log = logging.getLogger("tasks.evaluate")


def run(request: EvaluateRequest, inputs: EvaluateInputs, run: StageRun, settings: Settings) -> EvaluateResult:
    """Measure the model of `request.train_run_id` and the champion, have the gate judge, log evidence and verdict.

    A candidate that has the champion's weights is not compared with itself.

    Raises:
        DataError: the train run or its gold is missing.
        ModelError: a model's files were changed, or its classes are not those of the data.
        RequestError: the cluster has too little room for the workers.
        UnavailableError: MLflow, a store or Ray's cluster does not answer, or workers were lost too often.
    """
    name = request.registered_model
    model, champion = inputs.model, inputs.champion
    gold = gold_store.open_made_by(inputs.data.gold_run_id, inputs.data.gold_sha256, settings)
    prepare_cpu(BATCH * math.prod(gold.shape))
    use_datasets(run, inputs.data.prepare_run_id, "testing")
    registry.require_same_classes(name, gold.classes)

    candidate, champion_model, before = _measured(request, inputs, gold, settings)
    models = {id(model): model for model in (candidate, champion_model, before) if model is not None}
    timed = latencies([(model.forward, model.shape) for model in models.values()], gold.test.images)
    timings = dict(zip(models, timed, strict=True))

    slices = slices_of(gold.test, gold.classes, candidate.scores, candidate.correct)
    evidence = Evidence(
        loading=candidate.loading,
        scores=candidate.summary,
        cost=candidate.cost(timings[id(candidate)]),
        slices=slices,
        champion=_champion(request, champion, candidate, champion_model, timings) if champion else None,
        compression=_compression(request, inputs, candidate, before, timings),
        rolled_back=inputs.rolled_back,
    )
    verdict = decide(evidence, request.policy)
    log.info("evidence:\n%s", verdict.text())
    log.info("verdict: %s", verdict.reason)

    champion_answers = champion_model.answers if champion_model else None
    regions = _regions(gold, candidate, champion_answers)
    suspects = suspected_labels.find("test", gold.test, candidate.probabilities)
    log.info("%d of %d labels of test images look wrong: %s", len(suspects), len(gold.test), suspected_labels.FILE)
    _log_metrics(model.uri, gold, candidate, timings[id(candidate)], evidence, len(suspects))
    judged = champion_model or (candidate if inputs.same else None)
    judged_by = judged.probabilities if judged else None
    evidence_log.log_tables(run.run_id, gold, candidate.scores, slices, candidate.probabilities, judged_by, suspects)
    evidence_log.log_reference_predictions(
        gold, candidate.probabilities, rounded=inputs.before is not None and not inputs.before.compression.trained
    )
    facts = {
        "data": f"{gold.dataset}, {len(gold.test):,} test images of {len(gold.classes)} classes",
        "fingerprint": gold.fingerprint,
        "weights (SHA-256)": model.sha256,
        "train run": request.train_run_id,
        "judged by": request.task.by,
    }
    if evidence.compression is not None:
        facts["compressed"] = f"by {evidence.compression.method} {evidence.compression.origin}"
    title = f"Verdict on a candidate for {name}"
    evidence_log.log_report(
        *(title, facts, gold, evidence, verdict, request.policy),
        *(candidate.answers, champion_answers, regions, suspects),
    )
    if inputs.data.gold_sha256 is not None:
        mlflow.set_tag(gold_store.GOLD_SHA256, inputs.data.gold_sha256)
    log_verdict(evidence, verdict, request.train_run_id)
    return EvaluateResult(
        **run.result_fields,
        accuracy=candidate.summary.accuracy,
        macro_f1=candidate.summary.macro_f1,
        promote=verdict.promote,
        reason=verdict.reason,
        champion_version=verdict.champion_version,
        champion_accuracy=judged.summary.accuracy if judged else None,
        table=verdict.markdown(),
    )


class _Models(NamedTuple):
    """The models that are measured, with their answers; the last two may be the same one."""

    candidate: OpenedModel
    champion: OpenedModel | None
    before: OpenedModel | None  # what the candidate was compressed from


def _measured(request: EvaluateRequest, inputs: EvaluateInputs, gold: Gold, settings: Settings) -> _Models:
    """Fetch all models, so that what is wrong with the files of one shows first; then get the answers of each."""
    champion, earlier = inputs.champion, inputs.before
    with ExitStack() as stack:

        def fetch(uri: str, artifact_sha256: str | None, what: str) -> FetchedModel:
            return stack.enter_context(fetched(uri, gold.classes, artifact_sha256, what))

        candidate = fetch(inputs.model.uri, inputs.model.artifact_sha256, "the candidate")
        serving = before = None
        if champion is not None and not inputs.same:
            serving = fetch(champion.uri, champion.artifact_sha256, f"champion, version {champion.version},")
        if inputs.made_from_champion:
            before = serving
        if earlier is not None and before is None:
            before = fetch(earlier.model.uri, earlier.model.artifact_sha256, "the model before compression")
        models = list(dict.fromkeys(model for model in (candidate, serving, before) if model is not None))
        workers = stack.enter_context(_workers(request, settings, models, len(gold.classes)))
        found: dict[FetchedModel | None, OpenedModel] = {}
        for model in models:
            found[model] = opened(model, gold, both_forms=model is candidate, workers=workers)
            log.info("%s: %s", model.what.rstrip(","), _figures(found[model].summary))
        return _Models(found[candidate], found.get(serving), found.get(before))


def _workers(
    request: EvaluateRequest, settings: Settings, models: Sequence[FetchedModel], classes: int
) -> AbstractContextManager[ModelWorkers | None]:
    """Return the workers of a cluster that answer, where the request asks for some and there is one."""
    if request.workers == 1:
        return nullcontext()
    if not settings.ray_address:
        log.info(
            "workers=%d: there is no cluster (RAY_ADDRESS), and on one machine evaluate uses all cores without workers",
            request.workers,
        )
        return nullcontext()
    from tasks.serving.model_workers import model_workers  # Ray takes a second and 60 MB

    return model_workers(request.workers, request.worker_cpus, settings, models, classes)


def _champion(
    request: EvaluateRequest,
    champion: CurrentChampion,
    candidate: OpenedModel,
    champion_model: OpenedModel | None,
    timings: Timings,
) -> Champion:
    if champion_model is None:
        return Champion(version=champion.version, same=True)
    number = champion.comparisons + 1
    cost = champion_model.cost(timings[id(champion_model)])
    return Champion(
        version=champion.version,
        scores=champion_model.summary,
        cost=cost,
        uncompressed_cost=evidence_log.uncompressed_cost(cost, champion.judged_by) if cost else None,
        comparison=compare(candidate.correct, champion_model.correct, request.policy.level(number), number),
    )


def _compression(
    request: EvaluateRequest,
    inputs: EvaluateInputs,
    candidate: OpenedModel,
    before: OpenedModel | None,
    timings: Timings,
) -> Compression | None:
    """Compare a compressed candidate with the model that it was made from; None for one that was trained."""
    if inputs.before is None or before is None:
        return None
    made, champion = inputs.before.compression, inputs.champion
    number = champion.comparisons + 1 if champion is not None else 1
    return Compression(
        method=made.method,
        images=made.images,
        version=champion.version if champion is not None and inputs.made_from_champion else made.version,
        scores=before.summary,
        cost=before.cost(timings[id(before)]),
        comparison=compare(candidate.correct, before.correct, request.policy.level(number), number),
    )


def _regions(gold: Gold, candidate: OpenedModel, champion: Answers | None) -> dict[int, NDArray[np.float32]]:
    """Return where the candidate looked in the mistakes that the report shows, by the index of the test image."""
    galleries = worst_mistakes(gold.test.labels, candidate.answers, champion)
    shown = sorted({index for gallery in galleries for index in gallery.indices})
    start = time.perf_counter()
    regions = decisive_regions(
        candidate.forward, gold.test.images[shown], candidate.answers.predicted[shown], candidate.shape
    )
    log.info("the regions that decided %d wrong answers: found in %.1f s", len(shown), time.perf_counter() - start)
    return dict(zip(shown, regions, strict=True))


def _log_metrics(
    model_uri: str, gold: Gold, candidate: OpenedModel, timing: Latency, evidence: Evidence, suspects: int
) -> None:
    metrics = {
        "test_accuracy": candidate.summary.accuracy,
        "test_macro_f1": candidate.summary.macro_f1,
        "test_calibration_error": candidate.summary.calibration_error,
        "test_images": float(len(gold.test)),
        "test_suspected_labels": float(suspects),
        "model_size_bytes": float(candidate.size_bytes),
        "latency_single_p50_ms": timing.single_p50_ms,
        "latency_single_p95_ms": timing.single_p95_ms,
        "batch_images_per_second": timing.batch_images_per_second,
    }
    if candidate.trial.memory_mb is not None:
        metrics["peak_memory_mb"] = candidate.trial.memory_mb
    if candidate.summary.top5_accuracy is not None:
        metrics["test_top5_accuracy"] = candidate.summary.top5_accuracy
    champion = evidence.champion
    if champion is not None and champion.scores is not None:
        if champion.scores.top5_accuracy is not None:
            metrics["champion_test_top5_accuracy"] = champion.scores.top5_accuracy
        metrics["champion_test_accuracy"] = champion.scores.accuracy
        metrics["champion_test_macro_f1"] = champion.scores.macro_f1
    if evidence.compression is not None:
        metrics["uncompressed_test_accuracy"] = evidence.compression.scores.accuracy
        if evidence.compression.cost is not None:
            metrics["uncompressed_latency_single_p50_ms"] = evidence.compression.cost.p50_ms
            metrics["uncompressed_model_size_bytes"] = evidence.compression.cost.size_mb * MEGABYTE
    if champion is not None and champion.comparison is not None:
        found = champion.comparison
        metrics |= {"accuracy_gap": found.gap, "accuracy_gap_low": found.low, "accuracy_gap_high": found.high}
        metrics["mcnemar_p_value"] = found.p_value
    log_values(metrics, model_id=model_uri.removeprefix("models:/"))


def _figures(scores: Scores) -> str:
    top5 = "" if scores.top5_accuracy is None else f"top-5 accuracy {scores.top5_accuracy:.4f}, "
    return (
        f"accuracy {scores.accuracy:.4f}, {top5}macro F1 {scores.macro_f1:.4f}, "
        f"calibration error {scores.calibration_error:.4f}"
    )
