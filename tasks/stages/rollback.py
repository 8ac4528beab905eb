"""rollback: make an earlier version the champion again; the service follows by itself."""

from __future__ import annotations

import logging

import mlflow

from tasks.contract.policies_file import rules_for
from tasks.contract.promotion import RollbackRequest, RollbackResult
from tasks.errors import ModelError
from tasks.records import ledger, registry, removed_weights
from tasks.records.tracking import StageRun
from tasks.serving import onnx_export
from tasks.settings import Settings

log = logging.getLogger("tasks.rollback")


def run(request: RollbackRequest, run: StageRun, settings: Settings) -> RollbackResult:
    """Move `champion` to `request.version`, or to the champion before this one, and record who did it and why.

    A version of an earlier release is exported to ONNX before the alias moves, because the service has no torch. A
    champion that someone made by hand gets its record when a request names it.

    A retry finishes an unfinished rollback and moves nothing twice: the version is chosen once and stored in the run.

    A rollback is the emergency exit: the administrators' floors and approval do not apply to it. But where there are
    rules for the registered model, it leads only to what was champion before, or anybody could promote by it.

    Raises:
        ModelError: there is no champion, no such version, no earlier champion, or it is the champion already; or the
            version cannot be served, or never was champion although there are rules.
        SettingsError: the administrators' rules cannot be read.
        DataError: the version would have to be exported, and has no reference predictions.
    """
    name = request.registered_model
    move = _begun(run, name) or _plan(name, request.version)
    rules = rules_for(name, settings)
    if rules and not _was_champion(name, move[1]):
        raise ModelError(
            f"version {move[1]} of {name!r} never was champion, and {rules.source} has rules for what becomes it; "
            "choose a version that was, or promote this one"
        )
    mlflow.set_tags({"pipeline.from_version": str(move[0]), "pipeline.version": str(move[1])})
    former, target = (registry.by_number(name, version) for version in move)
    log.info("%s", onnx_export.ensure(target))
    ledger.move_champion(
        ledger.Entry(
            key=request.task.key,
            kind=ledger.Kind.ROLLBACK,
            registered_model=name,
            from_version=move[0],
            to_version=move[1],
            candidate_version=move[1],
            candidate_sha256=target.tags.get(registry.SHA256, ""),
            by=request.task.by,
            reason=request.reason,
            evidence_run_id=target.tags.get("pipeline.evaluate_run_id"),
            former_sha256=former.tags.get(registry.SHA256) if move[0] != move[1] else None,
        )
    )
    log.info("champion of %s: version %d, was %d (%s: %s)", name, move[1], move[0], request.task.by, request.reason)
    return RollbackResult(**run.result_fields, registered_model=name, version=move[1], previous_version=move[0])


def _was_champion(name: str, version: int) -> bool:
    """Tell whether a version is champion now, as by somebody's hand, or was by the ledger."""
    now = registry.by_alias(name)
    return (now is not None and int(now.version) == version) or ledger.was_champion(name, version)


def _plan(name: str, asked: int | None) -> tuple[int, int]:
    """Return the versions to move from and to; raises before anything is written if that is impossible."""
    champion = registry.by_alias(name)
    if champion is None:
        raise ModelError(f"{name!r} has no champion to roll back; `python -m tasks history` shows what happened")
    now = int(champion.version)
    target = asked if asked is not None else ledger.champion_before(name, now)
    if target is None:
        raise ModelError(f"{name!r}: the ledger has no champion before version {now}; choose one with VERSION=")
    tags = registry.by_number(name, target).tags
    removed_weights.require(tags, f"version {target} of {name!r}", "choose another version")
    if target != now:
        return now, target
    if ledger.is_recorded(name, now):
        raise ModelError(f"version={target} is the champion of {name!r} already; choose another")
    # Someone moved the alias by hand. The champion before is the one that the ledger knows.
    last = ledger.newest_move(name)
    return last.entry.to_version if last and last.entry.to_version else now, target


def _begun(run: StageRun, name: str) -> tuple[int, int] | None:
    """Return what an earlier try chose; raises if someone else has moved the champion since."""
    tags = mlflow.get_run(run.run_id).data.tags
    if "pipeline.version" not in tags:
        return None
    move = int(tags["pipeline.from_version"]), int(tags["pipeline.version"])
    champion = registry.by_alias(name)
    if champion is None or int(champion.version) not in move:
        now = f"version {champion.version}" if champion else "none"
        raise ModelError(f"champion of {name!r} is {now} now, no longer version {move[0]}; start a new rollback")
    return move
