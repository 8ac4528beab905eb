"""The model card of a registered version: what it is, its data and training, how it was judged, and its limits.

After Mitchell et al., "Model Cards for Model Reporting" (2019). Everything is read from the runs of prepare, train and
evaluate, so that a card can be written without the data and without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run

from tasks import markdown
from tasks.contract.gate_policy import CLASS
from tasks.gate.evidence import Evidence
from tasks.gate.verdict import Check, Verdict
from tasks.records import registry, weights_store
from tasks.records.compressed_models import Compression
from tasks.records.tracking import RunTags
from tasks.records.verdict_log import read_evidence

LIMIT = 5000  # characters; the limit of MLflow's database for a version's description
UNKNOWN = "not recorded"
ROWS = 20  # of the table of checks
FEW = 30  # images; with fewer, a recall is imprecise
# Tried in this order until the card fits: characters of a check's reason, and number of classes named.
LEVELS = ((200, 30), (90, 12), (0, 6))
HYPERPARAMETERS = (
    ("finetune", "finetune"),
    ("input_side", "images enlarged to"),
    ("optimizer", ""),
    ("learning_rate", "learning rate"),
    ("schedule", "schedule"),
    ("batch_size", "batch size"),
    ("weight_decay", "weight decay"),
    ("layer_decay", "layer decay"),
    ("augmentation", "augmentation"),
    ("auto_augment", "auto augment"),
    ("mixup", "MixUp"),
    ("cutmix", "CutMix"),
    ("class_balance", "class balance"),
    ("label_smoothing", "label smoothing"),
    ("ema_decay", "weight averaging"),
    ("seed", "seed"),
)
# Left out where they have no effect; otherwise the list would hide what was done.
OFF = {"auto_augment": "none", "mixup": "0.0", "cutmix": "0.0", "class_balance": "none", "layer_decay": "1.0"}


@dataclass(frozen=True)
class Origin:
    """Everything that a card is written from; `compressed` is the run of a compression, None for a model as trained."""

    registered_model: str
    prepare: Run
    train: Run
    evaluate: Run
    classes: Sequence[str]
    evidence: Evidence
    verdict: Verdict
    compressed: Run | None = None

    @property
    def network(self) -> Run:
        """The run that trained the network in service."""
        compression = Compression.in_tags(self.compressed.data.tags) if self.compressed else None
        return self.compressed if self.compressed and compression and compression.trained else self.train


def read(registered_model: str, judged: RunTags, made: RunTags, verdict: Verdict) -> Origin:
    """Collect what is known about a model.

    Args:
        registered_model: its name.
        judged: tags of the evaluate run that judged it.
        made: tags of the run that trained or compressed it.
        verdict: on it.

    Raises:
        DataError: the train run is missing, or lacks the tag that names the run before it.
        ChangedError: the evidence or the classes are not what was logged.
    """
    compression = Compression.in_tags(made.values)
    trained = RunTags.read(compression.train_run_id) if compression else made
    prepare_run_id = trained.require("pipeline.prepare_run_id")
    client = MlflowClient()
    return Origin(
        registered_model=registered_model,
        prepare=client.get_run(prepare_run_id),
        train=client.get_run(trained.run_id),
        evaluate=client.get_run(judged.run_id),
        classes=registry.classes_of_run(trained.run_id, trained.values),
        evidence=read_evidence(judged.run_id, judged.values),
        verdict=verdict,
        compressed=client.get_run(made.run_id) if compression else None,
    )


def write(origin: Origin) -> str:
    """Write the card as Markdown, shortened where it would be longer than `LIMIT`."""
    cards = (_card(origin, why, classes) for why, classes in LEVELS)
    return next(card for card in cards if len(card) < LIMIT)


def _card(origin: Origin, why: int, classes: int) -> str:
    sections = {
        "What it is": _what(origin),
        "Data": _data(origin, classes),
        "Training": _training(origin),
        **({"Compression": _compression(origin)} if origin.evidence.compression else {}),
        "Evidence": _evidence(origin, why),
        "Limits": _limits(origin, min(classes, 5)),
        "Runs": _runs(origin),
    }
    return "\n\n".join(f"### {name}\n{text}" for name, text in sections.items())


def _what(origin: Origin) -> str:
    params = origin.network.data.params
    size = _number(params.get("parameters_total"))
    return (
        f"An image classifier for {_code(origin.registered_model)}: the network {_code(params.get('model', UNKNOWN))} "
        f"({size} parameters) takes images of {_shape(params)} and answers with a probability for each of "
        f"{len(origin.classes)} classes. Intended for images like those it was trained on."
    )


def _data(origin: Origin, classes: int) -> str:
    params, tags, metrics = origin.prepare.data.params, origin.prepare.data.tags, origin.prepare.data.metrics
    source = params.get("source", "None")
    where = "" if source == "None" else f" from {_code(source, 200)}"
    counts = ", ".join(f"{_number(metrics.get(f'images.{name}'))} {name}" for name in ("train", "validation", "test"))
    return _list(
        f"Data set {_code(params.get('dataset', UNKNOWN))}{where}; licence: "
        f"{_plain(tags.get('pipeline.data_licence', UNKNOWN), 200)}",
        f"Images: {counts}; {_number(metrics.get('images.removed'))} left out",
        f"Classes: {_names(origin.classes, classes)}",
        f"Fingerprint {_code(tags.get('pipeline.fingerprint', UNKNOWN), 64)}",
    )


def _training(origin: Origin) -> str:
    data = origin.train.data
    params = data.params
    shown = [(name, label) for name, label in HYPERPARAMETERS if params.get(name, OFF.get(name)) != OFF.get(name)]
    settings = [f"{label} {_code(params[name])}".strip() for name, label in shown]
    suspects = data.metrics.get("suspected_labels")
    accuracy = data.metrics.get("best_validation_accuracy")
    started = _started_from(data.tags)
    result = UNKNOWN if accuracy is None else f"{accuracy:.4f}"
    return _list(
        f"Validation accuracy {result} in epoch {_number(data.metrics.get('best_epoch'))} of "
        f"{data.params.get('epochs', UNKNOWN)}, on {data.tags.get('pipeline.device', UNKNOWN)}",
        ", ".join(settings) or UNKNOWN,
        *([started] if started else []),
        *([f"Labels of {_number(suspects)} training and validation images look wrong"] if suspects else []),
        f"Code: commit {_code(data.tags.get('mlflow.source.git.commit', UNKNOWN))}",
    )


def _started_from(tags: Mapping[str, str]) -> str:
    """Say which weights the training started from; nothing for runs that do not say it."""
    source = tags.get(weights_store.STARTED_FROM)
    if source is None:
        return ""
    if source == weights_store.RANDOM:
        return "Started from random weights"
    sha256, licence = tags.get(weights_store.SHA256, UNKNOWN), tags.get(weights_store.LICENCE, UNKNOWN)
    return f"Started from {_code(source, 120)}, SHA-256 {_code(sha256[:12])}; licence: {_plain(licence, 100)}"


def _compression(origin: Origin) -> str:
    """How the model was made smaller, and what that gained and lost on the test images and the machine of evaluate."""
    made, evidence = origin.evidence.compression, origin.evidence
    assert made is not None  # noqa: S101  # there is no such section otherwise
    lines = [f"Made by {_code(made.method)} {made.origin}", *_lesson(origin)]
    if evidence.scores is not None:
        lines.append(f"Test accuracy {evidence.scores.accuracy:.4f}, before {made.scores.accuracy:.4f}")
    if evidence.cost is not None and made.cost is not None:
        now, was = evidence.cost, made.cost
        lines.append(f"Median of one answer {now.p50_ms:.3g} ms, before {was.p50_ms:.3g} ms")
        lines.append(f"Size {now.size_mb:.1f} MB, before {was.size_mb:.1f} MB")
    return _list(*lines)


def _lesson(origin: Origin) -> list[str]:
    """Say how a student was taught or a pruned network trained on; nothing where nothing was trained."""
    if origin.network is origin.train:
        return []
    data = origin.network.data
    epochs, share, temperature = (data.params.get(name, UNKNOWN) for name in ("epochs", "teacher_share", "temperature"))
    now, before = (data.metrics.get(name) for name in ("multiplications", "parent_multiplications"))
    if now and before:
        return [f"{1 - now / before:.0%} of its multiplications removed, then trained for {_code(epochs)} epochs"]
    started = _started_from(data.tags)
    return [
        f"Trained for {_code(epochs)} epochs; share of the loss by the answers of the model before {_code(share)}, at "
        f"temperature {_code(temperature)}",
        *([started] if started else []),
    ]


def _evidence(origin: Origin, why: int) -> str:
    checks = origin.verdict.checks
    # Failed checks are dropped last.
    kept = sorted(range(len(checks)), key=lambda index: (checks[index].passed, index))[:ROWS]
    rows = dict(enumerate(origin.verdict.rows()))
    lines = [
        "| check | measured | limit | |" + (" why |" if why else ""),
        "|---|---|---|---|" + ("---|" if why else ""),
    ]
    for index in sorted(kept):
        name, measured, limit, mark, reason = rows[index]
        cells = [_plain(name, 40), measured, limit, mark, *([_plain(reason, why)] if why else [])]
        lines.append(f"| {' | '.join(cells)} |")
    if len(checks) > ROWS:
        lines.append(f"\n{len(checks) - ROWS} more in `verdict.json`.")
    return "\n".join([_headline(origin.verdict, checks), "", *lines])


def _headline(verdict: Verdict, checks: Sequence[Check]) -> str:
    failed = sum(not check.passed for check in checks)
    against = "no champion yet" if verdict.champion_version is None else f"against version {verdict.champion_version}"
    outcome = "passed the gate" if verdict.promote else f"refused by the gate, {failed} of {len(checks)} checks failed"
    return f"When first registered: {outcome} ({against})."


def _limits(origin: Origin, names: int) -> str:
    return _list(*_limit_lines(origin, names))


def _limit_lines(origin: Origin, names: int) -> Iterator[str]:
    evidence = origin.evidence
    slices = [part for part in evidence.slices if part.column == CLASS]
    tested = sum(part.images for part in slices)
    yield (
        f"Tested on {tested:,} images of the same source as its training images. Other cameras, places or times were "
        "not tested, nor adversarial images."
    )
    yield f"An image of anything else still gets one of its {len(origin.classes)} classes."
    yield f"Images are cropped to a square and resized to {_shape(origin.train.data.params)}; finer detail is lost."
    worst = sorted((part.accuracy, part.value) for part in slices if part.accuracy is not None)[:names]
    if worst:
        yield "Weakest classes, by recall: " + ", ".join(f"{_code(value)} {recall:.3f}" for recall, value in worst)
    few = [part.value for part in slices if part.images < FEW]
    if few:
        yield f"Fewer than {FEW} test images, so that recall is imprecise: {_names(few, names)}"
    columns = list(dict.fromkeys(part.column for part in evidence.slices if part.column != CLASS))
    yield (
        f"Besides classes, also tested separately by: {_names(columns, names)}"
        if columns
        else "Tested separately by class only: the data have no metadata columns."
    )
    if evidence.scores is not None:
        yield f"Confidence is off by {evidence.scores.calibration_error:.3f} on average (expected calibration error)."


def _runs(origin: Origin) -> str:
    runs = {"prepare": origin.prepare, "train": origin.train}
    if origin.compressed is not None:
        runs["compress"] = origin.compressed
    runs["evaluate, with `report.html`"] = origin.evaluate
    return _list(
        *(
            f"{name}: [{run.info.run_id}](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})"
            for name, run in runs.items()
        )
    )


def _shape(params: Mapping[str, str]) -> str:
    try:
        channels, height, width = json.loads(params["input"])
    except (KeyError, ValueError):
        return f"a size {UNKNOWN}"
    return f"{height} x {width} pixels, {'grey' if channels == 1 else 'RGB'}"


def _number(value: str | float | None) -> str:
    return UNKNOWN if value is None else f"{int(float(value)):,}"


def _names(names: Sequence[str], limit: int) -> str:
    listed = ", ".join(_code(name) for name in names[:limit])
    return listed + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _list(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _code(text: str, limit: int = 40) -> str:
    return markdown.code(_cut(text, limit))


def _plain(text: str, limit: int) -> str:
    return markdown.plain(_cut(text, limit))


def _cut(text: str, limit: int) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else f"{folded[: limit - 1]}…"
