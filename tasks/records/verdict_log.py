"""What evaluate logs to MLflow for register: the evidence and the verdict on it."""

from __future__ import annotations

import mlflow
from mlflow import MlflowClient

from tasks.contract.promotion import EvaluateRequest, EvaluateResult
from tasks.gate.decision import decide
from tasks.gate.evidence import Champion, Evidence
from tasks.gate.verdict import Verdict
from tasks.records.metric_log import log_values
from tasks.records.tracking import StageRun


def log_verdict(evidence: Evidence, verdict: Verdict, train_run_id: str) -> None:
    """Log the evidence, the verdict and the verdict's schema; the tags last: a run that has them is complete."""
    mlflow.log_dict(evidence.model_dump(mode="json"), "evidence.json")
    mlflow.log_dict(Verdict.model_json_schema(), "verdict.schema.json")
    mlflow.log_text(verdict.model_dump_json(indent=2), "verdict.json")
    mlflow.set_tags({"pipeline.train_run_id": train_run_id, "pipeline.promote": str(verdict.promote).lower()})


def judge_champion(
    request: EvaluateRequest, run: StageRun, champion_version: int, measured: EvaluateResult
) -> EvaluateResult:
    """Judge a candidate with the champion's weights by the current policy, from the measurements of an earlier run.

    Verdict and evidence are logged to this run; report, tables and reference predictions stay in that of `measured`.
    """
    text = mlflow.artifacts.load_text(f"runs:/{measured.run_id}/evidence.json")
    same = Champion(version=champion_version, same=True)
    evidence = Evidence.model_validate_json(text).model_copy(update={"champion": same, "rolled_back": None})
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
