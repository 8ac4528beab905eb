"""predict: classify all images of a source with one version of a model, part by part; see `tasks.prediction`."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import mlflow
from mlflow.environment_variables import MLFLOW_S3_ENDPOINT_URL

from tasks.contract.prediction import S3, PredictRequest, PredictResult
from tasks.errors import DataError, ModelError, RequestError
from tasks.prediction import output
from tasks.prediction.answers import Answered, answered, batches
from tasks.prediction.classifier import Classifier, classifying_here
from tasks.prediction.destinations import destination
from tasks.prediction.output import Output, Plan
from tasks.prediction.part_files import Columns, PartFiles
from tasks.prediction.sources import Images, open_images
from tasks.records import registry
from tasks.records.metric_log import log_values
from tasks.records.tracking import StageRun
from tasks.serving import resolution
from tasks.serving.model import PreparedModel, ServedModel
from tasks.serving.model_reference import CHAMPION, Target
from tasks.serving.preparation import prepared_model
from tasks.serving.promotion import require_promoted
from tasks.serving.reference_check import open_verified
from tasks.serving.runtimes import ONNX
from tasks.settings import Settings
from tasks.vision.cpus import available_cpus

RATE = "images_per_second"
VERSION = "pipeline.version"  # the version that an alias named at the first try
SPEAK_SECONDS = 10.0

log = logging.getLogger("tasks.predict")


def run(request: PredictRequest, run: StageRun, settings: Settings) -> PredictResult:
    """Predict what no earlier call has predicted into the same `out`.

    Parts that are complete stay as they are, by whatever run they were made; the source is gone through from its
    beginning to see that it is still the same.

    Raises:
        DataError: the source is missing, damaged, or holds no image; or too many of its files cannot be decoded.
        ModelError: there is no such version, its files are not those registered, or it has no ONNX form.
        RequestError: `out` lies in the source, or holds predictions of another source or version; or there is too
            little room for the workers.
        SettingsError: `out` cannot be written, or the S3 store refuses the credentials.
        UnavailableError: MLflow, the S3 store or Ray's cluster does not answer, the disk of `out` is full, or workers
            were lost too often.
    """
    _require_outside(request)
    # MLflow's own variable, and its precedence: where it is unset, boto3 reads AWS_ENDPOINT_URL.
    endpoint = MLFLOW_S3_ENDPOINT_URL.get()  # type: ignore[no-untyped-call]
    target = _target(request, run)
    place = destination(request.out, run.run_id, endpoint)
    named = open_images(request.images, settings.datasets, endpoint, request.file_column, request.name_encoding)
    with named as images, prepared_model(target) as prepared:
        if prepared.runtime != ONNX:
            raise ModelError(
                f"{target}: an earlier release registered it without the ONNX form that predict runs; export it once: "
                f"make export-onnx VERSION={target.version}"
            )
        model = open_verified(prepared)
        out = output.begin(place, _plan(request, images, model))
        log.info("%s: %d images are predicted already, in %d parts", place.where, out.end.items, len(out.parts))
        with _classifying(request, prepared, model, settings, complete=out.complete) as classifier:
            rate = _predict(request, images, classifier, model.classes, out)
        if not out.complete:
            out.finish(images.ignored)
    log_values({"images": out.end.items, "failed": out.failed, "parts": len(out.parts), "ignored": images.ignored})
    if rate or RATE not in mlflow.get_run(run.run_id).data.metrics:  # an earlier try has logged its own
        log_values({RATE: rate})
    mlflow.set_tags({"pipeline.images": request.images[:5000], "pipeline.out": place.where})
    return PredictResult(
        **run.result_fields,
        registered_model=request.registered_model,
        version=model.target.version or 0,
        out=place.where,
        images=out.end.items,
        failed=out.failed,
        parts=len(out.parts),
        images_per_second=round(rate, 1),
    )


def _require_outside(request: PredictRequest) -> None:
    """Refuse an `out` inside the source: the next call would take predictions for files of the source."""
    images, out = request.images, request.out
    if out is None or images.startswith(S3) != out.startswith(S3):
        return
    if out.startswith(S3):
        inside = images.endswith("/") and f"{out.rstrip('/')}/".startswith(images)
    else:
        inside = Path(out).expanduser().resolve().is_relative_to(Path(images).expanduser().resolve())
    if inside:
        raise RequestError(f"out={out!r} lies in images={images!r}; give a place outside of it")


def _target(request: PredictRequest, run: StageRun) -> Target:
    """Find the version that answers; a retry takes the one of the first try, wherever the alias points now."""
    name = request.registered_model
    tags = mlflow.get_run(run.run_id).data.tags
    asked = request.model_version or (int(tags[VERSION]) if VERSION in tags else None)
    if asked is not None:
        return resolution.of_version(registry.by_number(name, asked))
    version = registry.by_alias(name, request.alias)
    if version is None:
        raise ModelError(
            f"{name!r} has no version with the alias {request.alias!r}; run the pipeline, or set model_version, alias "
            "or registered_model"
        )
    target = resolution.of_version(version)
    if request.alias == CHAMPION:
        try:
            require_promoted(target)
        except ModelError as error:
            raise ModelError(f"{target} is not used: {error}") from error
    mlflow.set_tag(VERSION, str(target.version))
    return target


def _plan(request: PredictRequest, images: Images, model: ServedModel) -> Plan:
    return Plan(
        images=request.images,
        images_sha256=images.identity,
        registered_model=request.registered_model,
        version=model.target.version or 0,
        model_sha256=model.target.artifact_sha256 or "",
        classes=model.classes,
        output_format=request.output_format,
        part_images=request.part_images,
        file_column=request.file_column,
        name_encoding=request.name_encoding,
    )


def _classifying(
    request: PredictRequest, prepared: PreparedModel, model: ServedModel, settings: Settings, *, complete: bool
) -> AbstractContextManager[Classifier]:
    """Return what classifies: this process, or the workers that the request asks for, if anything is left to do."""
    if complete or not request.uses_ray:
        return classifying_here(available_cpus(), model.forward, model.shape)
    from tasks.prediction.workers import classifying_on_workers  # Ray takes a second and 60 MB

    return classifying_on_workers(request, prepared.files, model.shape, settings)


def _predict(
    request: PredictRequest, images: Images, classifier: Classifier, classes: tuple[str, ...], out: Output
) -> float:
    """Predict and write the parts that are missing; return the images per second."""
    columns = Columns(classes, out.plan.version, request.output_format)
    begun = out.end.items
    found = batches(images, out.end, request.part_images, request.forward_images)
    remote = request.images.startswith(S3) and request.images.endswith("/")
    answers = _spoken(answered(classifier, found, remote=remote), begun)
    started = time.monotonic()
    example = ""
    _require_few_failed(request, out, example)
    while (first := next(answers, None)) is not None:
        if out.complete:
            raise RequestError(
                f"images={request.images!r} has grown since it was predicted into out={out.place.where!r}"
            )
        with tempfile.TemporaryDirectory(prefix="predict-") as name:
            part = PartFiles(Path(name), len(out.parts), columns)
            batch: Answered | None = first
            while batch is not None:
                part.add(batch.answers)
                end = batch.end
                example = example or next((f"{one.name!r}: {one.reason}" for one in batch.answers if one.reason), "")
                batch = None if end.items % request.part_images == 0 else next(answers, None)
            out.add(part, Path(name), end)
        _require_few_failed(request, out, example)
    if not out.end.items:
        raise DataError(
            f"images={request.images!r} holds no images ({images.ignored} other files); correct the address, and end a "
            "folder in S3 with /"
        )
    if not out.predicted:
        raise DataError(f"none of the {out.failed} files of {request.images!r} can be decoded{_such_as(example)}")
    return (out.end.items - begun) / max(time.monotonic() - started, 1e-9)


def _require_few_failed(request: PredictRequest, out: Output, example: str) -> None:
    if out.failed > request.max_failed * out.end.items:
        raise DataError(
            f"{out.failed} of the first {out.end.items} files of {request.images!r} cannot be decoded, over the limit "
            f"of {request.max_failed:.0%}{_such_as(example)}; `failed` in {out.place.where} lists them; repair or move "
            "them away, or raise max_failed: then the run goes on from here"
        )


def _such_as(example: str) -> str:
    return f" (such as {re.sub(r'[.;]$', '', example)})" if example else ""


def _spoken(answers: Iterator[Answered], begun: int) -> Iterator[Answered]:
    """Log the number of images and the rate from time to time; how many there are is known at the end only."""
    started = spoken = time.monotonic()
    for batch in answers:
        yield batch
        now = time.monotonic()
        if now - spoken >= SPEAK_SECONDS:
            spoken = now
            log.info(
                "images predicted: %d, %.0f per second", batch.end.items, (batch.end.items - begun) / (now - started)
            )
