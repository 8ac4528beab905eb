"""Judges evidence again where floors ask for more than the policy that evaluate judged by."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.decision import decide
from tasks.gate.evidence import Comparison, Evidence
from tasks.gate.verdict import Check, Verdict


def decide_by(evidence: Evidence, policy: GatePolicy) -> Verdict:
    """Judge by `policy`; a comparison that was made with a larger chance of error than it allows counts as missing."""
    verdict = decide(evidence, policy)
    rows = tuple(_too_lax(evidence, policy))
    return verdict.model_copy(update={"checks": verdict.checks + rows, "promote": verdict.promote and not rows})


def _too_lax(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    for found in _decisive(evidence):
        allowed = policy.level(found.look)
        if found.level > allowed:
            why = (
                f"no evidence: compared with a chance of error of {found.level:.2g}, and {allowed:.2g} is allowed; "
                "clear the evaluate task, so that it compares again"
            )
            yield Check(name="level of the comparison", measured=found.level, limit=allowed, passed=False, why=why)


def _decisive(evidence: Evidence) -> Iterator[Comparison]:
    """Yield the comparisons that the verdict depends on."""
    champion, compression = evidence.champion, evidence.compression
    if champion and champion.comparison and not champion.same and not evidence.made_from_champion:
        yield champion.comparison
    if compression and compression.comparison:
        yield compression.comparison
