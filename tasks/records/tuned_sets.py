"""Hyperparameters that a search found: stored with the tune run, and used by trainings once they are proven.

A set is proven when a model trained with it became champion: the version carries the tune run's ID, and the ledger says
that it was promoted and not rolled back since.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from mlflow import MlflowClient

from tasks.contract.messages import parse
from tasks.contract.recipe import Hyperparameters
from tasks.contract.training import TrainRequest
from tasks.errors import DataError
from tasks.records import ledger, queries
from tasks.records.paging import FEW, PAGE
from tasks.records.queries import PRESENT
from tasks.records.tracking import RunTags

HYPERPARAMETERS = "pipeline.hyperparameters"  # tag of a tune run: the best set, JSON
MODEL = "pipeline.model"  # tag of a tune run: the network it is for
DATASET = "pipeline.dataset"  # tag of a tune run
TUNE_RUN = "pipeline.tune_run_id"  # tag of a train run and of its version: the search; `NONE` for the defaults
NONE = "none"

log = logging.getLogger("tasks.train")


@dataclass(frozen=True)
class TunedSet:
    """The best hyperparameters of one search, and what they were searched for."""

    run_id: str
    dataset: str
    model: str
    hyperparameters: Hyperparameters


def keep(tuned: TunedSet) -> None:
    """Write a set to its tune run, as tags and as the artifact `hyperparameters.json`."""
    values = tuned.hyperparameters.model_dump(mode="json")
    client = MlflowClient()
    client.log_dict(tuned.run_id, values, "hyperparameters.json")
    client.set_tag(tuned.run_id, DATASET, tuned.dataset)
    client.set_tag(tuned.run_id, MODEL, tuned.model)
    client.set_tag(tuned.run_id, HYPERPARAMETERS, tuned.hyperparameters.model_dump_json())  # last: it completes the set


def read(run_id: str, handed_over: Mapping[str, str] | None = None) -> TunedSet:
    """Read the set of a tune run, whose tags must be those of its result, if the DAG passes it on.

    Raises:
        DataError: the run does not exist, or is not a finished search.
        ChangedError: a tag is not what tune handed over.
    """
    tags = RunTags.read(run_id, handed_over)
    text = tags.require(HYPERPARAMETERS)
    return TunedSet(
        run_id=run_id,
        dataset=tags.require(DATASET),
        model=tags.require(MODEL),
        hyperparameters=parse(Hyperparameters, text, DataError),
    )


def newest_proven(registered_model: str, dataset: str, model: str) -> TunedSet | None:
    """Find the newest set for this data set and network with which a champion of `registered_model` was trained."""
    sets: dict[str, TunedSet | None] = {}
    for entry, run_id in _tuned_promotions(registered_model):
        if run_id not in sets:
            sets[run_id] = _read_if_there(run_id, entry.candidate_version)
        found = sets[run_id]
        fits = found is not None and (found.dataset, found.model) == (dataset, model)
        if fits and not ledger.rolled_back(registered_model, entry.candidate_sha256):
            return found
    return None


def _tuned_promotions(registered_model: str) -> Iterator[tuple[ledger.Entry, str]]:
    """Yield the promotions of models with tuned hyperparameters, newest first, each with the ID of its tune run.

    Most often the first is the one wanted; and where nothing was ever tuned, no version is asked for one by one.
    """
    promotions = ledger.promotions(registered_model)
    size = FEW
    while batch := [record.entry for record in islice(promotions, size)]:
        numbers = [entry.candidate_version for entry in batch]
        tuned = queries.find_versions(registered_model, {TUNE_RUN: PRESENT}, range(min(numbers), max(numbers) + 1))
        runs = {int(version.version): version.tags[TUNE_RUN] for version in tuned}
        yield from ((entry, runs[entry.candidate_version]) for entry in batch if entry.candidate_version in runs)
        size = min(size * 10, PAGE)


def _read_if_there(run_id: str, version: int) -> TunedSet | None:
    try:
        return read(run_id)
    except DataError as gone:  # someone deleted the run
        log.warning("the hyperparameters of version %d are skipped: %s", version, gone)
        return None


def choose(request: TrainRequest, run_id: str, dataset: str) -> TunedSet | None:
    """Choose the set that a training starts from; None means the defaults. Nothing is written.

    A retry uses what the first try chose, whatever was promoted in between: it resumes from a checkpoint of that.

    Raises:
        DataError: `request.tuned_by` does not exist, is not a finished search, or is for another data set or network.
        ChangedError: what that search found is not what tune handed over.
    """
    chosen = MlflowClient().get_run(run_id).data.tags.get(TUNE_RUN)
    model = request.network(dataset)
    if chosen == NONE:
        return None
    if chosen or request.tuned_by:
        run_of_search = chosen or str(request.tuned_by)
        handed_over = request.tune_tags if run_of_search == request.tuned_by else None
        tuned: TunedSet | None = read(run_of_search, handed_over)
    elif request.hyperparameters == "tuned":
        tuned = newest_proven(request.registered_model, dataset, model)
    else:
        tuned = None
    if tuned and (tuned.dataset, tuned.model) != (dataset, model):
        raise DataError(
            f"tuned_by={tuned.run_id!r} searched for {tuned.model} on {tuned.dataset}, not for {model} on "
            f"{dataset}; choose another search, or model={tuned.model!r}"
        )
    return tuned


def keep_choice(run_id: str, tuned: TunedSet | None) -> None:
    """Write to a train run which set it starts from, before the training begins."""
    MlflowClient().set_tag(run_id, TUNE_RUN, tuned.run_id if tuned else NONE)


def version_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a version by those of the run that trained its model: the search it comes from, if any."""
    chosen = tags.get(TUNE_RUN, NONE)
    return {} if chosen == NONE else {TUNE_RUN: chosen}
