"""The report of a verdict: one self-contained HTML page for people (`report.html` in MLflow).

Names of classes, files and columns come with the data, so they are untrusted: the template escapes all text, and the
page's security policy forbids it to load or run anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.contract.gate_policy import CLASS, GatePolicy
from tasks.gate.evidence import Evidence, Slice
from tasks.gate.verdict import Verdict
from tasks.vision.data.gold import Gold
from tasks.vision.evaluation import comparison_plots, galleries
from tasks.vision.evaluation.evaluation_plots import confusion_figure, per_class_figure
from tasks.vision.evaluation.scoring import Answers, calibration_bins
from tasks.vision.evaluation.suspected_labels import Suspect
from tasks.vision.evaluation.suspected_labels_figure import suspects_figure

TEMPLATE = "report.html.jinja"
SLICES = 12  # shown per column, the worst first
SCORES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "calibration_error": "calibration error",
}
COSTS = {
    "p50_ms": "latency, median, ms",
    "p95_ms": "latency, 95th percentile, ms",
    "memory_mb": "peak memory, MB",
    "size_mb": "size, MB",
}
CAPTIONS = {
    "accuracy_gap": "How much better or worse the candidate is, and how certain that is: an interval made in this way "
    "contains the true gap as often as the title says. In the red area the candidate is worse than the margin allows.",
    "reliability": "Are answers given with 80 % confidence correct 8 times in 10? Points are bins of confidence, "
    "larger with more images; below, the share of the images in each bin.",
    "confusion_difference": "What the candidate does more (+) or less (-) often than the champion, in test images.",
    "confusion_matrix": "Which classes the candidate confuses, in test images.",
}


@dataclass(frozen=True)
class _Plot:
    """One figure as the page has it."""

    name: str
    picture: str
    caption: str


def plots(
    gold: Gold,
    evidence: Evidence,
    policy: GatePolicy,
    candidate: Answers,
    champion: Answers | None,
    suspects: Sequence[Suspect],
) -> dict[str, Figure]:
    """Draw the evidence, by name; `champion` is None where there is none, or it is the candidate itself."""
    figures = {
        "confusion_matrix": confusion_figure(candidate.scores, gold.classes),
        "per_class": per_class_figure(candidate.scores, gold.classes),
    }
    models = {"candidate": candidate}
    if champion is not None and evidence.champion is not None:
        name = f"champion, version {evidence.champion.version}"
        models[name] = champion
        figures["confusion_difference"] = comparison_plots.confusion_difference_figure(
            candidate.scores.confusion, champion.scores.confusion, gold.classes, f"the {name}"
        )
        if evidence.champion.comparison is not None:
            figures["accuracy_gap"] = comparison_plots.gap_figure(evidence.champion.comparison, policy, name)
    figures["reliability"] = comparison_plots.reliability_figure(
        {name: calibration_bins(gold.test.labels, answers.probabilities) for name, answers in models.items()}
    )
    if suspects:
        figures["suspected_labels"] = suspects_figure(suspects, gold)
    return figures


def render(
    title: str,
    facts: Mapping[str, str],
    gold: Gold,
    evidence: Evidence,
    verdict: Verdict,
    pictures: Mapping[str, bytes],
    candidate: Answers,
    champion: Answers | None,
    regions: Mapping[int, NDArray[np.float32]],
    suspects: Sequence[Suspect],
) -> str:
    """Write the page.

    Args:
        title: what was judged.
        facts: where it came from, by name.
        gold: the data, for the images that went wrong.
        evidence: what was measured.
        verdict: the gate's decision.
        pictures: PNG files by the names of `plots`.
        candidate: its answers to the test images.
        champion: as for `plots`.
        regions: how much each place of a test image decided its answer, [H, W] by the image's index.
        suspects: test images whose label is probably wrong, the most suspicious first.
    """
    word, _, why = verdict.reason.partition(": ")
    order = ("accuracy_gap", "reliability", "confusion_matrix" if champion is None else "confusion_difference")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        facts=facts,
        word=word,
        why=why,
        rows=verdict.rows(),
        figures=list(_figures(evidence)),
        version=evidence.champion.version if evidence.champion is not None and not evidence.champion.same else None,
        plots=[_Plot(name, galleries.uri(pictures[name]), CAPTIONS[name]) for name in order if name in pictures],
        galleries=[
            (gallery.title, gallery.count, list(galleries.tiles(gold, gallery, candidate, champion, regions)))
            for gallery in galleries.worst_mistakes(gold.test.labels, candidate, champion)
        ],
        scale=galleries.scale(),
        suspects=len(suspects),
        suspect_tiles=list(galleries.suspect_tiles(gold, suspects)),
        slices=_worst_slices(evidence),
        images=len(gold.test),
    )


def _figures(evidence: Evidence) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, candidate's value, champion's and their difference, as text; "" where there is none."""
    champion = evidence.champion
    scores, cost = (champion.scores, champion.cost) if champion is not None else (None, None)
    for mine, theirs, form, labels in (
        (evidence.scores, scores, ".4f", SCORES),
        (evidence.cost, cost, ".2f", COSTS),
    ):
        for field, label in labels.items():
            if mine is not None and getattr(mine, field) is None:
                continue  # top-5 accuracy of few classes
            values = [getattr(model, field) for model in (mine, theirs) if model is not None]
            texts = [format(getattr(model, field), form) if model is not None else "" for model in (mine, theirs)]
            yield label, texts[0], texts[1], format(values[0] - values[1], f"+{form}") if len(values) == 2 else ""


def _worst_slices(evidence: Evidence) -> dict[str, tuple[int, list[Slice]]]:
    """Return, by column, how many slices it has and the worst of them; those without an image come first."""
    columns: dict[str, list[Slice]] = {CLASS: []}
    for part in evidence.slices:
        columns.setdefault(part.column, []).append(part)
    return {
        column: (len(parts), sorted(parts, key=lambda part: -1 if part.accuracy is None else part.accuracy)[:SLICES])
        for column, parts in columns.items()
    }
