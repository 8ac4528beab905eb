"""What evaluate reads: the trained model, test images, the champion and what the ledger says about the candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.contract.messages import StageResult
from tasks.contract.promotion import EvaluateRequest, EvaluateResult
from tasks.records import (
    artifact_digest,
    artifact_names,
    ledger,
    reference_predictions,
    registry,
    removed_weights,
    verdict_log,
    verified_artifacts,
)
from tasks.records.compressed_models import Compression
from tasks.records.inputs.stage_inputs import PreparedData, StageInputs
from tasks.records.inputs.training import TrainInputs
from tasks.records.onnx_forms import OnnxForm
from tasks.records.tracking import RunTags, StageRun, tag_of

FILES = {verdict_log.VERDICT, verdict_log.EVIDENCE, reference_predictions.FILE}


@dataclass(frozen=True)
class TrainedModel:
    """The model that a train run stored."""

    uri: str
    sha256: str  # of architecture and weights
    artifact_sha256: str  # of its files

    @classmethod
    def of(cls, tags: RunTags) -> Self:
        """Take it from the tags of a train run.

        Raises:
            DataError: it stored no model.
            ModelError: its weights were removed.
        """
        names = (artifact_names.MODEL_URI, registry.SHA256, artifact_digest.TAG)
        made = cls(*(tags.require(name) for name in names))
        fix = 'train it again: start a run with force=["train"]'
        removed_weights.require(tags.values, f"run {tags.run_id}", fix)
        return made


@dataclass(frozen=True)
class CurrentChampion:
    """The version that is champion when the evaluation begins."""

    version: int
    uri: str  # of what is served: its logged model, or the ONNX form that was exported for it later
    sha256: str | None
    artifact_sha256: str | None  # of the files there; None: another program registered it
    comparisons: int  # number of other candidates that it was compared with
    judged_by: str | None = None  # the evaluate run that measured a compressed one before and after the compression


@dataclass(frozen=True)
class Uncompressed:
    """The model that a compressed candidate was made from, and how."""

    compression: Compression
    model: TrainedModel

    @classmethod
    def of(cls, tags: RunTags) -> Self | None:
        """Read what the run of a candidate was made from; None if it was trained.

        Raises:
            DataError: the run that trained the model is missing.
        """
        compression = Compression.in_tags(tags.values)
        return cls(compression, TrainedModel.of(RunTags.read(compression.train_run_id))) if compression else None


@dataclass(frozen=True)
class EvaluateInputs(StageInputs):
    """The candidate, its data, and the champion that it has to beat."""

    model: TrainedModel
    data: PreparedData
    champion: CurrentChampion | None
    rolled_back: str | None  # who rolled back the candidate's weights before, and why; None if nobody did
    before: Uncompressed | None = None  # what a compressed candidate was made from

    measured_same: ClassVar[str] = "model, which is the champion, data and code"

    @classmethod
    def resolve(cls, request: EvaluateRequest, run: StageRun) -> Self:
        """Read the tags of the train run, and resolve the alias `champion` to a version.

        Raises:
            DataError: the train run, its prepare run or one of their tags is missing.
            ChangedError: a tag is not what the run's stage handed over.
        """
        name = request.registered_model
        tags = RunTags.read(request.train_run_id, request.train_tags)
        model, before = TrainedModel.of(tags), Uncompressed.of(tags)
        data = PreparedData.of(tags.require("pipeline.prepare_run_id"), request.prepare_tags)
        found = registry.by_alias(name)
        if found is None:
            return cls(model, data, None, ledger.rolled_back(name, model.sha256), before)
        version, sha256 = int(found.version), found.tags.get(registry.SHA256)
        same = sha256 == model.sha256
        comparisons = 0 if same else ledger.comparisons(name, version, model.sha256)
        uri, files = f"models:/{name}/{version}", found.tags.get(artifact_digest.TAG)
        if (exported := OnnxForm.of(found)) is not None:
            uri, files = exported.uri, exported.artifact_sha256
        compressed = Compression.in_tags(found.tags) is not None
        judged_by = ledger.evidence_of(name, version) if compressed else None
        champion = CurrentChampion(version, uri, sha256, files, comparisons, judged_by)
        return cls(model, data, champion, None if same else ledger.rolled_back(name, model.sha256), before)

    @property
    def same(self) -> bool:
        """Whether the candidate has the champion's weights."""
        return self.champion is not None and self.champion.sha256 == self.model.sha256

    @property
    def made_from_champion(self) -> bool:
        """Whether the candidate is the champion, compressed."""
        return (
            self.champion is not None and self.before is not None and self.champion.sha256 == self.before.model.sha256
        )

    @property
    def measured(self) -> dict[str, Any] | None:
        """Model, what it was made from, and data."""
        model = {registry.SHA256: self.model.sha256, artifact_digest.TAG: self.model.artifact_sha256}
        before = {"compressed": self.before.compression.about, "from": self.before.model.sha256} if self.before else {}
        return {"model": model, **before, "data": self.data.identity} if self.data.identity else None

    @property
    def identity(self) -> dict[str, Any] | None:
        """Model, data, champion, and the history that the verdict depends on."""
        return {**self.measured, "champion": self._champion_identity} if self.measured else None

    @property
    def _champion_identity(self) -> dict[str, Any]:
        if self.champion is None:
            return {"champion": None, "rolled_back": self.rolled_back}
        if self.same:
            return {"champion": self.champion.version, "same": True}
        return {
            "champion": self.champion.version,
            "digests": [self.champion.sha256, self.champion.artifact_sha256],
            "looks": self.champion.comparisons,
            "rolled_back": self.rolled_back,
        }

    @property
    def only_to_judge(self) -> bool:
        """True if the candidate has the champion's weights: it is not compared with itself."""
        return self.same

    def judge(self, request: EvaluateRequest, run: StageRun, measured: StageResult) -> StageResult:
        """Judge the champion's weights by the current policy, from the measurements of an earlier run."""
        if self.champion is None or not isinstance(measured, EvaluateResult):
            raise TypeError(f"{type(measured).__name__} is not a measurement of the champion")
        return verdict_log.judge_champion(request, run, self.champion.version, measured)

    @staticmethod
    def lost(run: Run) -> str:
        """Name what is missing: the train run or its outputs, the verdict, the evidence, its record in the ledger.

        Every stage can write a run that looks like one of evaluate, with a verdict of its choice; no stage but register
        writes into the ledger.
        """
        client = MlflowClient()
        trained = client.get_run(tag_of(run.info.run_id, "pipeline.train_run_id"))
        if trained.info.lifecycle_stage != "active":
            return f"its train run {trained.info.run_id} is deleted"
        recorded = ledger.judged_by(run.info.run_id)
        if not recorded:
            return "register has recorded no verdict of it"
        evidence = run.data.tags.get(f"{verified_artifacts.TAG}{verdict_log.EVIDENCE}")
        if any(entry.evidence_sha256 not in (None, evidence) for entry in recorded):
            return f"its {verdict_log.EVIDENCE} is not the one that register recorded"
        missing = ", ".join(sorted(FILES - {file.path for file in client.list_artifacts(run.info.run_id)}))
        return f"its {missing} is gone" if missing else TrainInputs.lost(trained)
