"""The gate's verdict: rows of evidence, and whether they suffice. Logged as `verdict.json`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks import markdown
from tasks.text_table import columns


class Check(BaseModel):
    """One row: what was measured, its limit, whether that passes, and why in a sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    measured: float | None = Field(description="None where the evidence is missing, or is not a number.")
    limit: float | None
    passed: bool
    why: str


class Verdict(BaseModel):
    """Whether the candidate may become champion, and the evidence for that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    promote: bool
    champion_version: int | None = Field(description="Version the candidate was compared with.")
    is_champion: bool = Field(False, description="The candidate's weights are the champion's: nothing to promote.")
    checks: tuple[Check, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _follows_from_checks(self) -> Self:
        passed = all(check.passed for check in self.checks)
        if self.promote != (passed and not self.is_champion):
            raise ValueError(f"promote={self.promote} does not follow from the checks (all passed: {passed})")
        return self

    @property
    def reason(self) -> str:
        """The verdict in one line: the checks that failed, or that none did."""
        failed = [check.why for check in self.checks if not check.passed]
        if self.is_champion and not failed:
            return f"unchanged: these weights are the champion already, version {self.champion_version}"
        if failed:
            return "refused: " + "; ".join(failed)
        champion = (
            "no champion yet" if self.champion_version is None else f"champion was version {self.champion_version}"
        )
        return f"promoted: all {len(self.checks)} checks passed ({champion})"

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Name, measured, limit, `pass` or `FAIL`, why; as text, one tuple per check."""
        return [
            (check.name, _number(check.measured), _number(check.limit), "pass" if check.passed else "FAIL", check.why)
            for check in self.checks
        ]

    def text(self) -> str:
        """The rows under a header, in columns, for a log."""
        return columns([("check", "measured", "limit", "", "why"), *self.rows()])

    def markdown(self) -> str:
        """The rows as a Markdown table, for the approver's page and the model card."""
        lines = ["| check | measured | limit | | why |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(map(markdown.plain, row)) + " |" for row in self.rows()]
        return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
