"""What train and tune read: data, weights to start from, the device, and the hyperparameters that a search found."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tasks.contract.recipe import NONE
from tasks.contract.training import TrainRequest, TuneRequest
from tasks.records import artifact_digest, gold_store, registry, removed_weights, tuned_sets
from tasks.records.inputs import weights
from tasks.records.inputs.stage_inputs import PreparedData, StageInputs
from tasks.records.inputs.weights import Weights
from tasks.records.tracking import StageRun, tag_of
from tasks.records.transient_errors import as_unavailable
from tasks.records.tuned_sets import TunedSet
from tasks.vision import accelerator


@dataclass(frozen=True)
class TrainInputs(StageInputs):
    """The data of one training, the tuned set and the weights that it starts from, and the kind of device."""

    data: PreparedData
    tuned: TunedSet | None  # None: the defaults
    weights: Weights | None  # None: random ones
    device: str

    @classmethod
    def resolve(cls, request: TrainRequest, run: StageRun) -> Self:
        """Read the tags of the prepare run, choose tuned set and weights; a retry gets what its first try chose.

        Raises:
            DataError: the prepare run or the search does not exist, or the search is for something else.
            ChangedError: a tag of one of them is not what its stage handed over.
            PipelineError: the weights are missing, changed, or of another network; see `weights.resolve`.
        """
        data = PreparedData.of(request.prepare_run_id, request.prepare_tags)
        dataset = data.dataset or tag_of(data.prepare_run_id, tuned_sets.DATASET)
        tuned = tuned_sets.choose(request, run.run_id, dataset)
        found = weights.resolve(_asked(request), request.network(dataset), run)
        return cls(data, tuned, found, accelerator.kind(request.device))

    @property
    def identity(self) -> dict[str, Any] | None:
        """Data, hyperparameters of the tuned set, weights and device."""
        data, tuned = self.data.identity, self.tuned
        chosen = [tuned.run_id, tuned.hyperparameters.model_dump(mode="json")] if tuned else None
        started = self.weights.identity if self.weights else None
        return {"data": data, "tuned": chosen, "weights": started, "device": self.device} if data else None

    @staticmethod
    def lost(run: Run) -> str:
        """Name what is missing: the gold, the model, its classes."""
        run_id = run.info.run_id
        if removed_weights.TAG in run.data.tags:
            return f"its weights were removed ({run.data.tags[removed_weights.TAG]})"
        if not gold_store.exists(tag_of(tag_of(run_id, "pipeline.prepare_run_id"), gold_store.GOLD_RUN)):
            return "the gold it was trained on is gone"
        if not _model_is_whole(run):
            return "its model is gone or damaged"
        there = {file.path for file in MlflowClient().list_artifacts(run_id)}
        return "" if registry.CLASSES in there else f"its {registry.CLASSES} is gone"


@dataclass(frozen=True)
class TuneInputs(StageInputs):
    """The data of one search, the weights that each of its networks starts from, and the kind of device."""

    data: PreparedData
    networks: tuple[str, ...]  # those that a trial may train
    weights: Mapping[str, Weights]  # by network; one that is not in it starts from random ones
    device: str

    @classmethod
    def resolve(cls, request: TuneRequest, run: StageRun) -> Self:
        """Read the tags of the prepare run and find the weights; a retry gets those that its first try found.

        Raises:
            DataError: the prepare run does not exist or has no gold.
            ChangedError: a tag of it is not what prepare handed over.
            PipelineError: the weights are missing, changed, or of another network; see `weights.resolve`.
        """
        data = PreparedData.of(request.prepare_run_id, request.prepare_tags)
        networks = tuple(request.search_space.model or [request.network(data.dataset or "")])
        found = weights.resolve_each(_asked(request), networks, run)
        return cls(data, networks, found, accelerator.kind(request.device))

    @property
    def identity(self) -> dict[str, Any] | None:
        """Data, weights and device."""
        data = self.data.identity
        started = {network: found.identity for network, found in self.weights.items()}
        return {"data": data, "weights": started, "device": self.device} if data else None

    @staticmethod
    def lost(run: Run) -> str:
        """Only the set that the search found is needed: reading it raises if it is missing."""
        tuned_sets.read(run.info.run_id)
        return ""


def _asked(request: TrainRequest | TuneRequest) -> str:
    return request.weights if request.starts_from_weights else NONE


def _model_is_whole(run: Run) -> bool:
    """Tell whether the store still has exactly the files of the model that a train run logged."""
    uri, sha256 = (run.data.tags.get(name, "") for name in ("pipeline.logged_model_uri", artifact_digest.TAG))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
            return artifact_digest.digest(Path(path)) == sha256
    except (MlflowException, OSError) as error:
        if as_unavailable(error) is not None:
            raise
        return False
