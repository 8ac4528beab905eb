"""prepare: read a data set, clean and split it, and keep the images as the gold of this run."""

from __future__ import annotations

import gzip
import json
import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.numpy_dataset import from_numpy
from mlflow.environment_variables import MLFLOW_S3_ENDPOINT_URL

from tasks import markdown
from tasks.contract.data import PrepareRequest, PrepareResult
from tasks.contract.datasets import DATASETS, licence_of
from tasks.errors import ChangedError, DataError
from tasks.records import gold_store, queries, registry
from tasks.records.decoded_store import DecodedStore
from tasks.records.inputs.corrections import read_corrections
from tasks.records.metric_log import log_values
from tasks.records.near_duplicate_log import log_near_duplicates
from tasks.records.tracking import StageRun
from tasks.settings import Settings
from tasks.vision.cpus import available_cpus
from tasks.vision.data import bronze, corrections, losses, silver, splits, understanding
from tasks.vision.data.contents import LayoutOptions
from tasks.vision.data.corrections import Corrections
from tasks.vision.data.decoder import Decoder
from tasks.vision.data.fingerprint import Shaping, fingerprint
from tasks.vision.data.gold import Gold
from tasks.vision.data.plots import grid_figure, histogram_figure
from tasks.vision.data.records import Record
from tasks.vision.data.sources import Source, open_source

FINGERPRINT = "pipeline.fingerprint"
REMOVED = "images.removed"
CORRECTIONS = "pipeline.corrections_sha256"
DIGEST_LENGTH = 36  # MLflow's limit for the digest of a data set
CONTEXTS = {"train": "training", "validation": "validation", "test": "testing"}

log = logging.getLogger("tasks.prepare")


@dataclass(frozen=True)
class _Made:
    """Gold with the run that stores it, the digest of its files, and the number of files left out of it."""

    gold: Gold
    run_id: str
    sha256: str
    removed: int


def run(request: PrepareRequest, run: StageRun, settings: Settings) -> PrepareResult:
    """Make the gold of a data set, or reuse that of an earlier run with the same fingerprint.

    Raises:
        DataError: the source holds nothing a classifier can be trained on.
        ChangedError: the gold of an earlier run is not what was stored; a request that forces prepare does not read it.
        ModelError: the champion of `request.registered_model` has other classes.
        RequestError: the source is of a kind that cannot be opened, or a cluster has too little room for the workers.
        SettingsError: the S3 store refuses the credentials.
        UnavailableError: a download fails, Ray's cluster does not answer, or workers were lost too often.
    """
    started = time.monotonic()
    # MLflow's own variable, and its precedence: where it is unset, boto3 reads AWS_ENDPOINT_URL.
    endpoint = MLFLOW_S3_ENDPOINT_URL.get()  # type: ignore[no-untyped-call]
    options = LayoutOptions.of(request)
    changes = read_corrections(request.corrections) if request.corrections else None
    with open_source(request.dataset, request.source, settings.datasets, endpoint, options) as opened:
        source = opened if changes is None else _corrected(opened, changes)
        listing = source.listing
        _log_layer("raw", listing.files, len(listing.entries), started)
        for line in understanding.lines(listing):
            log.info("%s", line)
        losses.require_few(listing, listing.removals, request.max_left_out, request.source or request.dataset)
        registry.require_same_classes(request.registered_model, listing.classes)
        shaping = Shaping.of(request, source)
        key = fingerprint(source.digest(), shaping, listing, changes.sha256 if changes else "")
        earlier = (
            None
            if request.forced("prepare")
            else _earlier(key, run.experiment_id, registry.judged_gold(request.registered_model, key), settings)
        )
        if earlier and losses.exceed(listing, sum(map(len, earlier.gold.splits.values())), request.max_left_out):
            earlier = None  # that run allowed more; to make the gold again says which files are left out
        decoded = DecodedStore(run.run_id, key)
        made = earlier or _make(source, shaping, key, run.run_id, request, settings, decoded)
    _describe(made, request, reused=earlier is not None)
    # Set last: only a complete run may be found and reused.
    mlflow.set_tags(
        {
            FINGERPRINT: key,
            gold_store.GOLD_RUN: made.run_id,
            gold_store.GOLD_SHA256: made.sha256,
            "pipeline.dataset": made.gold.dataset,
            "pipeline.data_licence": licence_of(request.dataset, request.licence),
            **({CORRECTIONS: changes.sha256} if changes else {}),
        }
    )
    decoded.discard()
    return PrepareResult(
        **run.result_fields,
        fingerprint=key,
        reused=earlier is not None,
        classes=len(made.gold.classes),
        train_images=len(made.gold.train),
        validation_images=len(made.gold.validation),
        test_images=len(made.gold.test),
        removed_images=made.removed,
    )


def _corrected(source: Source, changes: Corrections) -> Source:
    made = corrections.apply(changes, source)
    what = corrections.summary(changes, source.listing, made.listing)
    log.info("corrections from %s (SHA-256 %s...): %s", changes.where, changes.sha256[:12], what)
    return made


def _earlier(key: str, experiment_id: str, judged: Mapping[str, Sequence[str]], settings: Settings) -> _Made | None:
    """Find complete gold with this fingerprint; a finished run whose gold is missing or damaged does not count.

    Args:
        key: the fingerprint.
        experiment_id: MLflow's experiment.
        judged: digests of such gold on which versions were judged, by prepare run; where there are any, other gold does
            not count: every stage can write a run that looks like one of prepare.
        settings: how much memory and disk images may take.

    Raises:
        ChangedError: the gold of a run is not what was stored, or not what a version was judged on.
    """
    tags = {"pipeline.stage": "prepare", FINGERPRINT: key}
    checked = set[str]()  # most of the runs reused the same gold: each gold is checked once
    for run in queries.find_runs(experiment_id, tags, status="FINISHED"):
        run_id, removed = run.data.tags[gold_store.GOLD_RUN], run.data.metrics[REMOVED]
        if run_id in checked:
            continue
        checked.add(run_id)
        if not gold_store.exists(run_id):
            if lacks := gold_store.missing(run_id):
                more = f" and {len(lacks) - 1} more files" if lacks[1:] else ""
                log.warning("the gold of run %s is made again: the store has lost %s%s", run_id, lacks[0], more)
            continue
        try:
            gold, sha256 = gold_store.adopt(run_id, settings)
        except ChangedError:
            raise
        except DataError as error:
            log.warning("the gold of run %s is made again: %s", run_id, error)
            continue
        if judged and not any(sha256 in digests for digests in judged.values()):
            if run_id in judged:
                raise ChangedError(
                    f"the gold of run {run_id} was changed, files and tags: a version was judged on SHA-256 "
                    f"{judged[run_id][-1][:12]}..., now it is {sha256[:12]}...; {gold_store.FIX}, and find out who can "
                    "write to MLflow and its store"
                )
            log.warning("the gold of run %s is not reused: no version of the model was judged on it", run_id)
            continue
        log.info("the gold of run %s is reused", run_id)
        return _Made(gold, run_id, sha256, int(removed))
    return None


def _make(
    source: Source,
    shaping: Shaping,
    key: str,
    run_id: str,
    request: PrepareRequest,
    settings: Settings,
    decoded: DecodedStore,
) -> _Made:
    """Take the source through bronze and silver to gold, and log what each layer leaves behind."""
    started = time.monotonic()
    with _decoding(request, shaping, settings) as decoder:
        records = bronze.read(
            source,
            shaping,
            most_disk=settings.gold_disk_bytes,
            most_memory=settings.prepare_memory_bytes,
            parts=decoded,
            decoder=decoder,
        )
    _log_layer("bronze", len(source.listing.entries), len(records), started)

    started = time.monotonic()
    kept, left_out = silver.clean(records)
    _log_layer("silver", len(records), len(kept), started)
    removals = sorted([*source.listing.removals, *left_out], key=lambda removal: removal.name)
    with tempfile.TemporaryDirectory(prefix="manifest-") as folder:
        _write_manifest(records, Path(folder) / "bronze.jsonl.gz")
        losses.write(removals, Path(folder) / "removed.csv")
        mlflow.log_artifacts(folder, "manifest")
    for reason, count in Counter(removal.reason.value for removal in removals).items():
        log.info("left out: %d, %s", count, reason)
    listing = source.listing
    losses.require_few(listing, removals, request.max_left_out, request.source or request.dataset)

    started = time.monotonic()
    gold = splits.split(
        kept,
        listing.classes,
        shaping,
        key,
        has_test=listing.has_test,
        has_validation=listing.has_validation,
        columns=listing.columns,
    )
    sha256 = gold_store.store(gold)
    _log_layer("gold", len(kept), sum(map(len, gold.splits.values())), started)
    log_near_duplicates(gold)
    return _Made(gold, run_id, sha256, len(removals))


def _decoding(request: PrepareRequest, shaping: Shaping, settings: Settings) -> AbstractContextManager[Decoder | None]:
    """Return what decodes: the workers of a cluster that the request asks for; None: the threads of this process."""
    if not request.uses_ray:
        return nullcontext()
    if not settings.ray_address or not DATASETS[request.dataset].needs_source:
        log.info(
            "workers=%d: prepare uses them on a Ray cluster, for image files; here it decodes with %d threads",
            *(request.workers, available_cpus()),
        )
        return nullcontext()
    from tasks.cluster.decoding import decoding_on_workers  # Ray takes a second and 60 MB

    return decoding_on_workers(request.workers, request.worker_cpus, shaping, settings)


def _describe(made: _Made, request: PrepareRequest, *, reused: bool) -> None:
    """Make the run's page readable: counts, plots, the data set as an input, a note."""
    gold = made.gold
    counts = {f"images.{name}": len(split) for name, split in gold.splits.items()}
    log_values({**counts, REMOVED: made.removed, "classes": len(gold.classes)})
    mlflow.log_figure(histogram_figure(gold), "plots/class_histogram.png")
    mlflow.log_figure(grid_figure(gold), "plots/sample_grid.png")
    with warnings.catch_warnings():
        # MLflow has two equivalent classes for a local path, and warns about it.
        warnings.filterwarnings("ignore", "The specified dataset source can be interpreted", UserWarning)
        source = (
            resolve_dataset_source(request.source) if request.source else CodeDatasetSource({"dataset": gold.dataset})
        )
    for name, split in gold.splits.items():
        entity = from_numpy(
            np.broadcast_to(np.uint8(0), split.images.shape),  # MLflow takes type and shape of it
            source=source,
            targets=split.labels,
            name=f"{gold.dataset}-{name}",
            digest=gold.fingerprint[:DIGEST_LENGTH],
        )
        mlflow.log_input(entity, context=CONTEXTS[name])
    origin = f"Gold of run `{made.run_id}`, reused" if reused else "Gold made by this run"
    mlflow.set_tag(
        "mlflow.note.content",
        f"{origin}: {len(gold.classes)} classes, {len(gold.train)} training, {len(gold.validation)} validation and "
        f"{len(gold.test)} test images of {gold.shape}; {made.removed} files left out, each with its reason in "
        f"`manifest/removed.csv`{' of that run' if reused else ''}; near-duplicates of test images are in "
        f"`manifest/near_duplicates.csv`{' there, too' if reused else ''}, if images of this size are compared. "
        f"Metadata columns: {', '.join(map(markdown.code, gold.test.columns)) or 'none'}.",
    )


def _log_layer(name: str, rows_in: int, rows_out: int, started: float) -> None:
    seconds = time.monotonic() - started
    log_values({f"{name}.rows_in": rows_in, f"{name}.rows_out": rows_out, f"{name}.seconds": seconds})
    log.info("%s: %d in, %d out, %.1f s", name, rows_in, rows_out, seconds)


def _write_manifest(records: Iterable[Record], path: Path) -> None:
    """Write one JSON line per image; without a time stamp, so that the same images make the same file."""
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
        for record in records:
            entry = record.entry
            line = {
                "name": entry.name,
                "split": entry.split,
                "class": entry.label,
                "sha256": record.sha256,
                "bytes": record.size,
                "width": record.width,
                "height": record.height,
            }
            file.write(json.dumps(line).encode() + b"\n")
