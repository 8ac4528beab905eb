"""The most that a stage may use of the machines, as administrators set it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import inf
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.contract.resources import SHARE, Size, StageResources
from tasks.errors import SettingsError

POWERS = {"k": 1, "m": 2, "g": 3}  # of 1024


class Ceilings(BaseModel):
    """Ceilings by field of `StageResources`; one that is not given sets none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cpus: Annotated[float, Field(gt=0)] | None = Field(None, description="Also of cpu_request.")
    memory: Size | None = None
    shm_size: Size | None = None
    ephemeral_storage: Size | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    gpu_kind: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(None, description="All that may be had.")
    node_selector: dict[str, tuple[str, ...]] | None = Field(None, description="Labels, each with all its values.")
    tolerations: tuple[dict[str, str | int], ...] | None = Field(None, description="All that may be had.")

    def applied(self, stage: str, wanted: StageResources, asked: Collection[str], source: str) -> StageResources:
        """Lower what nobody asked for to the ceilings.

        Args:
            stage: whose resources these are.
            wanted: what it would get without ceilings.
            asked: fields that a run, a DAG file or PIPELINE_RESOURCES sets; the others are the stage's defaults.
            source: where the ceilings are from.

        Raises:
            SettingsError: what was asked for is over a ceiling.
        """
        lowered: dict[str, Any] = {}
        for field, ceiling, allowed in self._exceeded(wanted):
            if field in asked:
                raise SettingsError(
                    f"resources of {stage}: {field}={getattr(wanted, field)!r} is more than {source} allows, "
                    f"{allowed}; ask for that or less"
                )
            lowered[field] = ceiling
        if "cpus" in lowered and wanted.cpus is None and wanted.cpu_request is None:
            lowered["cpu_request"] = min(SHARE, lowered["cpus"])  # a node keeps no more for it than without a ceiling
        return wanted.model_copy(update=lowered)

    def _exceeded(self, wanted: StageResources) -> Iterator[tuple[str, Any, str]]:
        """Yield the fields that are over their ceiling, with the ceiling as a value and in words."""
        for field, amount in (
            ("cpus", _cpus(wanted.cpus)),
            ("cpu_request", wanted.cpu_request or 0),
            ("memory", _bytes(wanted.memory)),
            ("shm_size", _bytes(wanted.shm_size)),
            ("ephemeral_storage", _bytes(wanted.ephemeral_storage)),
            ("gpus", inf if wanted.gpus < 0 else wanted.gpus),
        ):
            ceiling = self.cpus if field == "cpu_request" else getattr(self, field)
            if ceiling is not None and amount > (_bytes(ceiling) if isinstance(ceiling, str) else ceiling):
                yield field, ceiling, f"{ceiling:g}" if isinstance(ceiling, float) else str(ceiling)
        if self.gpu_kind is not None and wanted.gpus and wanted.gpu_kind not in self.gpu_kind:
            yield "gpu_kind", self.gpu_kind[0], " or ".join(self.gpu_kind)
        known, labels = self.node_selector, wanted.node_selector.items()
        if known is not None and any(value not in known.get(label, ()) for label, value in labels):
            yield "node_selector", {}, "; ".join(f"{name}: {' or '.join(of)}" for name, of in known.items()) or "none"
        if self.tolerations is not None and any(one not in self.tolerations for one in wanted.tolerations):
            yield "tolerations", (), str(list(self.tolerations)) if self.tolerations else "none"


def _cpus(limit: float | None) -> float:
    return inf if limit is None else limit


def _bytes(size: str | None) -> float:
    return inf if size is None else int(size[:-1]) * 1024.0 ** POWERS[size[-1]]
