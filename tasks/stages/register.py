"""register: register the evaluated model as a version and move the aliases according to the verdict."""

from __future__ import annotations

import logging

import mlflow

from tasks.contract.policies import ApprovalRule, Rules
from tasks.contract.policies_file import rules_for
from tasks.contract.promotion import RegisterRequest, RegisterResult
from tasks.errors import ModelError, RequestError
from tasks.gate.verdict import Verdict
from tasks.records import (
    artifact_digest,
    artifact_names,
    compressed_models,
    ledger,
    model_card,
    registry,
    tuned_sets,
    verdict_log,
    verified_artifacts,
)
from tasks.records.artifact_names import GOLD_SHA256
from tasks.records.tracking import RunTags, StageRun
from tasks.settings import Settings

ASK = "nobody was asked; clear the approval task and this one"

log = logging.getLogger("tasks.register")


def run(request: RegisterRequest, run: StageRun, settings: Settings) -> RegisterResult:
    """Register the model of `request.evaluate_run_id` once, as `challenger`, and as `champion` if it was promoted.

    The same weights stay the same version: a retry, or a training that gives the same model again, adds none. The
    administrators' rules come from this process's environment, so that no request can leave them out.

    Raises:
        RequestError: an approval is missing, or the one that was given does not count.
        SettingsError: the administrators' rules cannot be read.
        DataError: the evaluate run is missing or has no verdict.
        ChangedError: the verdict is not what evaluate logged, or does not follow from the evidence; or a tag of its run
            or of the model's is not what evaluate or train handed over.
        ModelError: the champion changed since the verdict, or has other classes.
    """
    name = request.registered_model
    judged = RunTags.read(request.evaluate_run_id, request.evaluate_tags)
    train_run_id = judged.require("pipeline.train_run_id")
    made = RunTags.read(train_run_id, request.train_tags)
    rules = rules_for(name, settings)
    verdict = verdict_log.read_verdict(judged, rules)
    registry.require_same_classes(name, registry.classes_of_run(train_run_id, made.values))

    model_sha256 = made.require(registry.SHA256)
    known = registry.by_digest(name, model_sha256)
    champion = registry.by_alias(name)
    champion_version = int(champion.version) if champion else None
    known_version = int(known.version) if known else None
    if champion_version not in {verdict.champion_version, known_version}:
        raise ModelError(
            f"champion of {name!r} is version {champion_version} now, but the candidate was compared with version "
            f"{verdict.champion_version}; clear the evaluate task, so that it compares with the current champion"
        )
    promote, reason = conclusion(request, verdict, rules)
    if promote and rules and rules.approval and request.approval.approved:
        _require_valid(request, judged, rules, rules.approval)

    if known is None:
        tags = {
            "pipeline.key": request.task.key,
            "pipeline.train_run_id": train_run_id,
            "pipeline.evaluate_run_id": request.evaluate_run_id,
            "pipeline.prepare_run_id": made.require("pipeline.prepare_run_id"),
            "pipeline.fingerprint": made.require("pipeline.fingerprint"),
            registry.SHA256: model_sha256,
            artifact_digest.TAG: made.require(artifact_digest.TAG),
            **({GOLD_SHA256: judged.values[GOLD_SHA256]} if judged.values.get(GOLD_SHA256) else {}),
            **tuned_sets.version_tags(made.values),
            **compressed_models.version_tags(made.values),
        }
        source = made.require(artifact_names.MODEL_URI)
        card = model_card.write(model_card.read(name, judged, made, verdict))
        version = registry.create_version(name, source, train_run_id, tags, card)
    else:
        version = known
        if judged.values.get(GOLD_SHA256):
            registry.add_judged_gold(version, judged.values[GOLD_SHA256])
    number = int(version.version)
    log.info("%s version %d %s", name, number, "exists already" if known else "created")

    registry.set_alias(name, registry.CHALLENGER, number)
    log.info("%s version %d: %s", name, number, reason)
    entry = ledger.Entry(
        key=request.task.key,
        kind=ledger.Kind.PROMOTION if promote else ledger.Kind.REFUSAL,
        registered_model=name,
        from_version=verdict.champion_version,
        to_version=number if promote else verdict.champion_version,
        candidate_version=number,
        candidate_sha256=model_sha256,
        by=request.approval.by or request.task.by,
        reason=reason,
        evidence_run_id=request.evaluate_run_id,
        evidence_sha256=judged.values.get(f"{verified_artifacts.TAG}{verdict_log.EVIDENCE}"),
    )
    if promote:
        ledger.move_champion(entry)
    elif not verdict.is_champion:
        with ledger.recorded(entry):
            pass  # no alias moves
    champion_now = promote or verdict.is_champion
    mlflow.set_tags(
        {
            "pipeline.evaluate_run_id": request.evaluate_run_id,
            "pipeline.registered_model": name,
            "pipeline.version": str(number),
            "pipeline.promoted": str(champion_now).lower(),
        }
    )
    return RegisterResult(
        **run.result_fields,
        registered_model=name,
        version=number,
        created=version.tags.get("pipeline.key") == request.task.key,  # or by an earlier try
        promoted=champion_now,
        previous_champion=verdict.champion_version if verdict.champion_version != number else None,
        reason=reason,
    )


def conclusion(request: RegisterRequest, verdict: Verdict, rules: Rules | None = None) -> tuple[bool, str]:
    """Combine verdict, approval and the administrators' rules: whether to promote, and why or why not.

    Raises:
        RequestError: approval is required and none was given.
    """
    approval = request.approval
    judged = f"{verdict.reason}; rules of {rules.text}" if rules else verdict.reason
    if not verdict.promote:
        return False, judged
    if approval.approved is None:
        if rules and rules.approval and rules.approval.required:
            raise RequestError(f"{rules.source}: {rules.approval.text}, but {ASK}")
        if request.require_approval:
            raise RequestError(f"require_approval=True, but {ASK}")
        return True, judged
    word = f" ({approval.comment.strip()})" if approval.comment.strip() else ""
    if not approval.approved:
        return False, f"refused by {approval.by}{word}, though the gate says {judged}"
    return True, f"{judged}; approved by {approval.by}{word}"


def _require_valid(request: RegisterRequest, judged: RunTags, rules: Rules, rule: ApprovalRule) -> None:
    """Refuse an approval by somebody who may not give it, or of other evidence than that of this run."""
    objection = rule.objection(str(request.approval.by), request.task.user)
    if not objection and request.approval.evidence != verdict_log.table_sha256(judged):
        objection = f"{request.approval.by} approved other evidence than evaluate has logged by now"
    if objection:
        raise RequestError(f"{rules.source}: {objection}; clear the approval task and this one")
