"""What administrators demand of whoever starts a run: floors for the gate, approval, and ceilings for resources.

The rules are those of `policies.yaml` (`tasks.contract.policies_file` reads it). A request may ask for more, never for
less. Patterns name registered models; all rules whose pattern matches hold together, in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.contract.ceilings import Ceilings
from tasks.contract.gate_policy import STRICTER, GatePolicy, strictest
from tasks.contract.stages import STAGES
from tasks.errors import RequestError, SettingsError

ALL = "all"  # in `resources`: every stage
SHOWN = 5  # names in a sentence
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9*][A-Za-z0-9._*-]{0,99}$")]
UserName = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^\S(.*\S)?$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ApprovalRule(_Part):
    """Whether a person has to approve a promotion, and who may. Never the one who started the run."""

    required: bool = Field(True, description="Whether every promotion needs it, whatever the run asks for.")
    by: Annotated[tuple[UserName, ...], Field(min_length=1)] | None = Field(
        None, description="Airflow users who may approve; default: all who may answer."
    )

    def objection(self, approver: str, started_by: str | None) -> str:
        """Say why this person's approval does not count; empty if it does.

        Args:
            approver: who approved, by the name in Airflow.
            started_by: who started the run; None for a scheduled one.
        """
        if approver == started_by:
            return f"{approver} started this run, so somebody else must approve it"
        if self.by is not None and approver not in self.by:
            return f"{approver} may not approve it; {_listed(self.by)} may"
        return ""

    @property
    def text(self) -> str:
        """The rule in words."""
        who = f"approval by {_listed(self.by)}" if self.by else "approval by somebody else than who started the run"
        return who if self.required else f"if asked, {who}"


class ModelRules(_Part):
    """The rules for the registered models of one pattern. Of `gate`, the fields that were given are floors."""

    gate: GatePolicy = GatePolicy()
    approval: ApprovalRule | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.gate.model_fields_set and self.approval is None:
            raise ValueError("no rules: give a floor in gate, or approval")
        return self


@dataclass(frozen=True)
class Rules:
    """All rules for one registered model."""

    registered_model: str
    source: str  # where they are from, for messages
    floors: Mapping[str, Any]  # fields of GatePolicy
    approval: ApprovalRule | None

    def require(self, asked: GatePolicy) -> None:
        """Refuse limits that were set to ask for less than a floor; one at its default is no wish.

        Raises:
            RequestError: naming the Param, its value, the floor and where that is from.
        """
        for name, value in self._raised(asked).items():
            if getattr(asked, name) != GatePolicy.model_fields[name].default:
                raise RequestError(
                    f"{name}={getattr(asked, name)!r} asks for less than the floor of {self.registered_model!r} in "
                    f"{self.source}, {name}={self.floors[name]!r}; leave it out, or give {value!r}"
                )

    def applied(self, asked: GatePolicy) -> GatePolicy:
        """Return limits that ask for all that `asked` and the floors do."""
        return asked.model_copy(update=self._raised(asked))

    @property
    def approval_required(self) -> bool:
        """Whether every promotion needs an approval."""
        return self.approval is not None and self.approval.required

    @property
    def text(self) -> str:
        """The rules in one line: where from, floors, approval."""
        parts = [f"{name} {value}" for name, value in self.floors.items()]
        return f"{self.source}: " + ", ".join([*parts, *([self.approval.text] if self.approval else [])])

    def _raised(self, asked: GatePolicy) -> dict[str, Any]:
        meets = {name: strictest(name, getattr(asked, name), floor) for name, floor in self.floors.items()}
        return {name: value for name, value in meets.items() if value != getattr(asked, name)}


class Policies(_Part):
    """The whole file."""

    source: str = Field("PIPELINE_POLICIES", description="Where the rules are from, for messages.")
    models: dict[Pattern, ModelRules] = {}
    resources: dict[str, Ceilings] = {}

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.models and not self.resources:
            raise ValueError("no rules: write models or resources, or unset PIPELINE_POLICIES")
        if unknown := sorted(set(self.resources) - {ALL, *STAGES}):
            choices = ", ".join([ALL, *STAGES])
            raise ValueError(f"resources: stage {unknown[0]!r} is unknown; choose from {choices}")
        return self

    def rules_for(self, registered_model: str) -> Rules | None:
        """Return all rules for a registered model; None if no pattern matches it.

        Raises:
            SettingsError: two rules that match it cannot hold together.
        """
        found = [(pattern, rules) for pattern, rules in self.models.items() if fnmatchcase(registered_model, pattern)]
        if not found:
            return None
        source = f"{self.source} ({', '.join(pattern for pattern, _ in found)})"
        floors: dict[str, Any] = {}
        for name, value in (floor for _, rules in found for floor in _given(rules.gate)):
            if STRICTER[name] == ("fixed",) and floors.get(name, value) != value:
                raise SettingsError(f"{source}: {name} is {floors[name]!r} in one rule and {value!r} in another")
            floors[name] = strictest(name, floors.get(name), value)
        approvals = [rules.approval for _, rules in found if rules.approval is not None]
        return Rules(registered_model, source, floors, _together(approvals, source))

    def ceilings_for(self, stage: str) -> Ceilings:
        """Return the ceilings of a stage: those of `all`, where its own do not say otherwise."""
        of_all, own = (self.resources.get(key, Ceilings()).model_dump(exclude_unset=True) for key in (ALL, stage))
        return Ceilings(**of_all | own)


def _given(gate: GatePolicy) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(gate, name)) for name in GatePolicy.model_fields if name in gate.model_fields_set)


def _together(approvals: list[ApprovalRule], source: str) -> ApprovalRule | None:
    if not approvals:
        return None
    lists = [approval.by for approval in approvals if approval.by is not None]
    by = tuple(name for name in lists[0] if all(name in names for names in lists)) if lists else None
    if by == ():
        raise SettingsError(f"{source}: no user is in the list `by` of every rule, so nobody may approve")
    return ApprovalRule(required=any(approval.required for approval in approvals), by=by)


def _listed(names: tuple[str, ...]) -> str:
    shown = names[:SHOWN]
    return " or ".join(shown) + (f" or {len(names) - SHOWN} others" if len(names) > SHOWN else "")
