"""What every class of inputs offers: to the runner, which resolves it once, and to reuse, which compares it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.contract.messages import StageResult
from tasks.records import gold_store, tuned_sets
from tasks.records.tracking import StageRun, tag_of


class StageInputs(ABC):
    """What a stage reads beyond its parameters, resolved once before it is decided whether it has to work.

    A subclass is a frozen dataclass; the stage gets it as the second argument of `run`.
    """

    @classmethod
    @abstractmethod
    def resolve(cls, request: Any, run: StageRun) -> Self:
        """Read what `request` leads to; nothing is written.

        Raises:
            PermanentError: something that the stage cannot do without is missing or does not fit.
        """

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any] | None:
        """Values that are the same whenever the stage's result would be; None where that cannot be known.

        JSON, without run IDs: another run that leads to the same data is the same input.
        """

    @staticmethod
    @abstractmethod
    def lost(run: Run) -> str:
        """Name what of an earlier run is gone that the stages after it need; empty when all is there.

        Raises:
            DataError: a run that it leads to, or a tag of it, is gone.
        """

    # Some results are a measurement and a judgement of it. Where only the judgement is due, an earlier measurement of
    # the same is taken and judged again.
    measured_same: ClassVar[str] = ""  # what was the same then, in words

    @property
    def measured(self) -> dict[str, Any] | None:
        """The part of `identity` that a measurement follows from; None where nothing is judged."""
        return None

    @property
    def only_to_judge(self) -> bool:
        """Whether a judgement is all that is due."""
        return False

    def judge(self, request: Any, run: StageRun, measured: StageResult) -> StageResult:
        """Judge what an earlier run measured, and log the judgement to `run`."""
        raise NotImplementedError


@dataclass(frozen=True)
class PreparedData:
    """What a prepare run stands for: its tensors, and the licence that a model card states."""

    prepare_run_id: str
    gold_run_id: str
    fingerprint: str | None
    dataset: str | None
    licence: str | None

    @classmethod
    def of(cls, prepare_run_id: str) -> Self:
        """Read the tags of a prepare run.

        Raises:
            DataError: there is no such run, or it holds no gold.
        """
        gold_run_id = tag_of(prepare_run_id, gold_store.GOLD_RUN)
        tags = MlflowClient().get_run(prepare_run_id).data.tags
        names = ("pipeline.fingerprint", tuned_sets.DATASET, "pipeline.data_licence")
        return cls(prepare_run_id, gold_run_id, *(tags.get(name) for name in names))

    @property
    def identity(self) -> dict[str, str] | None:
        """Fingerprint, data set and licence; None where the run is so old that it does not say all three."""
        values = {name: value for name, value in asdict(self).items() if not name.endswith("_run_id")}
        return None if None in values.values() else values
