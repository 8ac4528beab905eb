"""What compress reads: the trained model to make smaller, its data, and the weights that a student starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.contract.compression import METHODS, CompressRequest
from tasks.contract.networks import same_network
from tasks.contract.recipe import AUTO
from tasks.errors import ModelError, RequestError
from tasks.records import compressed_models, registry
from tasks.records.compressed_models import Compression
from tasks.records.inputs.evaluation import TrainedModel
from tasks.records.inputs.stage_inputs import PreparedData, StageInputs
from tasks.records.inputs.training import TrainInputs
from tasks.records.inputs.weights import Weights, resolve
from tasks.records.tracking import RunTags, StageRun
from tasks.vision import accelerator


@dataclass(frozen=True)
class CompressInputs(StageInputs):
    """A trained model with its version in the registry, if it has one, its data, and what a training needs besides."""

    train_run_id: str
    version: int | None
    model: TrainedModel
    data: PreparedData
    params: Mapping[str, str]  # of its training
    weights: Weights | None = None  # of the student; None: random ones
    device: str | None = None  # None: nothing is trained

    @classmethod
    def resolve(cls, request: CompressRequest, run: StageRun) -> Self:
        """Find the run whose model is compressed; a retry gets what its first try found.

        Where the champion, or the model of the given run, was quantized or pruned, that is the run of the model before:
        nothing is compressed to integers twice, and no network is narrowed week after week.

        Raises:
            ModelError: there is no champion, or another program registered it.
            DataError: the run or one of its tags is missing.
            ChangedError: a tag is not what train handed over.
            RequestError: the model is of the student's network already.
        """
        tags = MlflowClient().get_run(run.run_id).data.tags
        name = request.registered_model
        found = tags.get(compressed_models.TRAIN_RUN) or request.trained_by or _run_of_champion(name)
        made_by = RunTags.read(found, request.train_tags if found == request.trained_by else None)
        compression = Compression.in_tags(made_by.values)
        if compression is not None and not compression.has_network:
            found = compression.train_run_id
            made_by = RunTags.read(found)
        model = TrainedModel.of(made_by)
        version = registry.by_digest(name, model.sha256)
        data = PreparedData.of(made_by.require("pipeline.prepare_run_id"))
        params = MlflowClient().get_run(found).data.params
        made = cls(found, int(version.version) if version else None, model, data, params)
        method = METHODS[request.method]
        if method.trains:
            made = replace(made, device=accelerator.kind("auto"))
        if not method.network:
            return made
        if same_network(request.student, params["model"]):
            raise RequestError(
                f"student={request.student!r} is the model's network already; choose a smaller one, or another method"
            )
        return replace(made, weights=resolve(AUTO, request.student, run))

    @property
    def fitted_to_validation(self) -> bool:
        """Whether its last fit was to the validation images, too, so that its accuracy on them says nothing.

        See `tasks.vision.training.head_epoch.run`; a run of an early release has no such param.
        """
        return self.params.get("finetune") == "head"

    @property
    def identity(self) -> dict[str, Any] | None:
        """Model, its version, data, weights and device."""
        if self.data.identity is None:
            return None
        model = {registry.SHA256: self.model.sha256, "version": self.version}
        started = {"weights": self.weights.identity if self.weights else None, "device": self.device}
        return {"model": model, "data": self.data.identity, **(started if self.device else {})}

    @staticmethod
    def lost(run: Run) -> str:
        """Name what is missing: the run that trained the model, or what later stages need of the compressed one."""
        compression = Compression.in_tags(run.data.tags)
        if compression is None:
            return "it does not say what it compressed"
        trained = MlflowClient().get_run(compression.train_run_id)
        if trained.info.lifecycle_stage != "active":
            return f"its train run {trained.info.run_id} is deleted"
        return TrainInputs.lost(run)


def _run_of_champion(registered_model: str) -> str:
    champion = registry.by_alias(registered_model)
    if champion is None:
        raise ModelError(
            f"registered_model={registered_model!r} has no champion yet, so there is nothing to compress; run "
            "daily_training first, or give trained_by"
        )
    if not champion.run_id:
        raise ModelError(
            f"the champion of {registered_model!r}, version {champion.version}, has no run, because another program "
            "created it; give trained_by"
        )
    return str(champion.run_id)
