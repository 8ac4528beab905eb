"""What evaluate logs to MLflow for register: the evidence and the verdict on it.

Both lie in the bucket, and neither is believed: their digests are tags, and register judges the evidence again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import mlflow
from mlflow import MlflowClient
from pydantic import ValidationError

from tasks.contract.gate_policy import GatePolicy
from tasks.contract.policies import Rules
from tasks.contract.promotion import EvaluateRequest, EvaluateResult
from tasks.errors import ChangedError
from tasks.gate.decision import decide
from tasks.gate.evidence import Champion, Evidence
from tasks.gate.floors import decide_by
from tasks.gate.verdict import Verdict
from tasks.records import verified_artifacts
from tasks.records.metric_log import log_values
from tasks.records.tracking import RunTags, StageRun

EVIDENCE, VERDICT = "evidence.json", "verdict.json"
PROMOTE = "pipeline.promote"  # set last: a run without it has no verdict to read
FIX = 'clear the evaluate task, or start a run with force=["evaluate"] if it reused an earlier one'


def log_verdict(evidence: Evidence, verdict: Verdict, train_run_id: str) -> None:
    """Log the evidence, the verdict and the verdict's schema; the tags last: a run that has them is complete."""
    mlflow.log_dict(Verdict.model_json_schema(), "verdict.schema.json")
    verified_artifacts.log_texts(
        {EVIDENCE: evidence.model_dump_json(indent=2), VERDICT: verdict.model_dump_json(indent=2)}
    )
    mlflow.set_tags({"pipeline.train_run_id": train_run_id, PROMOTE: str(verdict.promote).lower()})


def read_evidence(evaluate_run_id: str, tags: Mapping[str, str] | None = None) -> Evidence:
    """Read the evidence of an evaluate run; `tags` are the run's, where the caller has checked them.

    Raises:
        ChangedError: it is not what evaluate logged.
        MlflowException, OSError: there is none, or the store does not answer.
        ValidationError: it is damaged.
    """
    return Evidence.model_validate_json(verified_artifacts.read_text(evaluate_run_id, EVIDENCE, FIX, tags))


def read_verdict(tags: RunTags, rules: Rules | None = None) -> Verdict:
    """Judge the evidence of an evaluate run again, by the policy of its request, and require the verdict it logged.

    Args:
        tags: of the evaluate run.
        rules: the administrators'; where that policy asked for less, the verdict returned is by their floors.

    Raises:
        DataError: the run did not end with a verdict.
        ChangedError: evidence or verdict is not what evaluate logged, or the verdict does not follow from the evidence.
    """
    evaluate_run_id = tags.run_id
    tags.require(PROMOTE)
    try:
        text = verified_artifacts.read_text(evaluate_run_id, VERDICT, FIX, tags.values)
        logged = Verdict.model_validate_json(text)
        evidence = read_evidence(evaluate_run_id, tags.values)
    except (ValidationError, UnicodeDecodeError) as error:
        raise ChangedError(
            f"{VERDICT} or {EVIDENCE} of run {evaluate_run_id} is not what evaluate writes ({error}); {FIX}"
        ) from error
    # MLflow refuses to log another value of a param, so these are those that evaluate judged by.
    params = MlflowClient().get_run(evaluate_run_id).data.params
    policy = GatePolicy.model_validate({name: params[name] for name in GatePolicy.model_fields if name in params})
    verdict = decide(evidence, policy)
    if _decision(verdict) != _decision(logged):
        raise ChangedError(
            f"{VERDICT} of run {evaluate_run_id} says {logged.reason!r}, but its evidence and policy give "
            f"{verdict.reason!r}: it was changed, or judged by another release; {FIX}"
        )
    if rules is not None and (floored := rules.applied(policy)) != policy:
        return decide_by(evidence, floored)
    return verdict


def table_sha256(tags: RunTags) -> str:
    """SHA-256 of the table that an approver of this evaluate run's model was shown.

    Raises:
        ChangedError: the verdict is not what evaluate logged.
    """
    text = verified_artifacts.read_text(tags.run_id, VERDICT, FIX, tags.values)
    logged = Verdict.model_validate_json(text)
    return hashlib.sha256(logged.markdown().encode()).hexdigest()


def _decision(verdict: Verdict) -> tuple[object, ...]:
    """What a promotion depends on; the wording may change with a release."""
    checks = [(check.name, check.passed) for check in verdict.checks]
    return verdict.promote, verdict.champion_version, verdict.is_champion, checks


def judge_champion(
    request: EvaluateRequest, run: StageRun, champion_version: int, measured: EvaluateResult
) -> EvaluateResult:
    """Judge a candidate with the champion's weights by the current policy, from the measurements of an earlier run.

    Verdict and evidence are logged to this run; report, tables and reference predictions stay in that of `measured`.
    """
    same = Champion(version=champion_version, same=True)
    evidence = read_evidence(measured.run_id).model_copy(update={"champion": same, "rolled_back": None})
    verdict = decide(evidence, request.policy)
    log_verdict(evidence, verdict, request.train_run_id)
    metrics = MlflowClient().get_run(measured.run_id).data.metrics
    log_values({name: metrics[name] for name in ("test_accuracy", "test_macro_f1") if name in metrics})
    return EvaluateResult(
        **run.result_fields,
        reused_from=measured.run_id,
        accuracy=measured.accuracy,
        macro_f1=measured.macro_f1,
        promote=verdict.promote,
        reason=verdict.reason,
        champion_version=verdict.champion_version,
        champion_accuracy=measured.accuracy,
        table=verdict.markdown(),
    )
