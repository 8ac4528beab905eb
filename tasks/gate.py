"""The promotion gate: measured scores in, one verdict with its evidence out.

Pure: no model, no MLflow, no files. `evaluate` measures, this decides, `register` obeys.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Scores(BaseModel):
    """What was measured of one model on the test images; fractions from 0 to 1."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    accuracy: float = Field(ge=0, le=1)
    macro_f1: float = Field(ge=0, le=1)


class GatePolicy(BaseModel):
    """The limits a candidate has to meet."""

    model_config = ConfigDict(frozen=True)

    min_accuracy: float = Field(ge=0, le=1)
    min_macro_f1: float = Field(ge=0, le=1)


class Check(BaseModel):
    """One row of evidence: the candidate passes when `measured` is at least `limit`."""

    model_config = ConfigDict(frozen=True)

    name: str
    measured: float
    limit: float
    passed: bool
    why: str


class Verdict(BaseModel):
    """Whether the candidate may become champion, and on what evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    promote: bool
    champion_version: int | None = Field(description="Version the candidate was compared with.")
    checks: tuple[Check, ...] = Field(min_length=1)

    @property
    def reason(self) -> str:
        """The verdict in one line: the checks that failed, or that none did."""
        failed = [check.why for check in self.checks if not check.passed]
        if failed:
            return "refused: " + "; ".join(failed)
        rival = "no champion yet" if self.champion_version is None else f"champion is version {self.champion_version}"
        return f"promoted: {len(self.checks)} of {len(self.checks)} checks passed ({rival})"


def decide(candidate: Scores, champion: Scores | None, champion_version: int | None, policy: GatePolicy) -> Verdict:
    """Judge a candidate: absolute floors, then not worse than the champion on the same images.

    Raises:
        ValueError: a champion's scores without its version, or the other way round.
    """
    if (champion is None) != (champion_version is None):
        raise ValueError("a champion's scores and its version go together")
    checks = [
        _at_least("accuracy floor", "test accuracy", candidate.accuracy, policy.min_accuracy, "the floor"),
        _at_least("macro F1 floor", "macro F1", candidate.macro_f1, policy.min_macro_f1, "the floor"),
    ]
    if champion is not None:
        rival = f"champion version {champion_version}"
        checks.append(_at_least("champion", "test accuracy", candidate.accuracy, champion.accuracy, rival))
    return Verdict(
        promote=all(check.passed for check in checks), champion_version=champion_version, checks=tuple(checks)
    )


def _at_least(name: str, what: str, measured: float, limit: float, against: str) -> Check:
    passed = measured >= limit
    relation = "at least" if passed else "under"
    return Check(
        name=name,
        measured=measured,
        limit=limit,
        passed=passed,
        why=f"{what} {measured:.4f} is {relation} {limit:.4f}, {against}",
    )
