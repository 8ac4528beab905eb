"""The base class of stage inputs: the runner resolves them once, and reuse compares them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from mlflow.entities import Run

from tasks.contract.messages import StageResult
from tasks.records import gold_store, tuned_sets
from tasks.records.tracking import RunTags, StageRun


class StageInputs(ABC):
    """What a stage reads besides its parameters, resolved once, before deciding whether the stage has to run.

    A subclass is a frozen dataclass; the stage gets it as the second argument of `run`.
    """

    @classmethod
    @abstractmethod
    def resolve(cls, request: Any, run: StageRun) -> Self:
        """Read what `request` refers to; nothing is written.

        Raises:
            PermanentError: something that the stage needs is missing or does not fit.
        """

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any] | None:
        """Values that are equal exactly if the stage's result would be the same; None if that cannot be known.

        JSON, without run IDs: another run that leads to the same data is the same input.
        """

    @staticmethod
    @abstractmethod
    def lost(run: Run) -> str:
        """Name what later stages need and an earlier run no longer has; empty if nothing is missing.

        Raises:
            DataError: a run that it refers to, or one of its tags, is missing.
        """

    # Some results consist of a measurement and a judgement. If only the judgement may differ, an earlier measurement is
    # reused and judged again.
    measured_same: ClassVar[str] = ""  # which inputs were the same in that case, in words

    @property
    def measured(self) -> dict[str, Any] | None:
        """The part of `identity` that the measurement depends on; None if the stage judges nothing."""
        return None

    @property
    def only_to_judge(self) -> bool:
        """Whether an earlier measurement only has to be judged again."""
        return False

    def judge(self, request: Any, run: StageRun, measured: StageResult) -> StageResult:
        """Judge what an earlier run measured, and log the judgement to `run`."""
        raise TypeError(f"{type(self).__name__} measures nothing that could be judged again; define judge()")


@dataclass(frozen=True)
class PreparedData:
    """What a prepare run made: its tensors, and the licence that a model card states."""

    prepare_run_id: str
    gold_run_id: str
    fingerprint: str | None
    dataset: str | None
    licence: str | None
    gold_sha256: str | None  # None: a release that did not record it

    @classmethod
    def of(cls, prepare_run_id: str, handed_over: Mapping[str, str] | None = None) -> Self:
        """Read the tags of a prepare run, which must be those of its result, if the DAG passes it on.

        Raises:
            DataError: there is no such run, or it holds no gold.
            ChangedError: a tag is not what prepare handed over.
        """
        tags = RunTags.read(prepare_run_id, handed_over)
        names = ("pipeline.fingerprint", tuned_sets.DATASET, "pipeline.data_licence", gold_store.GOLD_SHA256)
        return cls(prepare_run_id, tags.require(gold_store.GOLD_RUN), *(tags.values.get(name) for name in names))

    @property
    def identity(self) -> dict[str, str] | None:
        """Fingerprint, data set, licence and digest of the gold; None if an old run has not recorded the first three.

        The digest too, because other versions of decoders can make other gold of the same source.
        """
        values = {name: value for name, value in asdict(self).items() if not name.endswith("_run_id")}
        gold_sha256 = values.pop("gold_sha256")
        if None in values.values():
            return None
        return values if gold_sha256 is None else {**values, "gold_sha256": gold_sha256}
