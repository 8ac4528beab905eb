"""register: make a version of the evaluated model and move the aliases as the verdict says."""

from __future__ import annotations

import logging

import mlflow

from tasks import registry
from tasks.contract import RegisterRequest, RegisterResult
from tasks.errors import ModelError
from tasks.gate import Verdict
from tasks.settings import Settings
from tasks.tracking import StageRun, tag_of

log = logging.getLogger("tasks.register")


def run(request: RegisterRequest, run: StageRun, settings: Settings) -> RegisterResult:
    """Register the model of `request.evaluate_run_id` once, as `challenger`, and as `champion` if it was promoted.

    The same weights are the same version: a retry, or a day on which training gave the same model again, adds none.

    Raises:
        DataError: the evaluate run is missing or has no verdict.
        ModelError: the champion changed since the verdict, or knows other classes.
    """
    name = request.registered_model
    train_run_id = tag_of(request.evaluate_run_id, "pipeline.train_run_id")
    tag_of(request.evaluate_run_id, "pipeline.promote")  # set last: a run without it has no verdict to read
    evidence = mlflow.artifacts.load_dict(f"runs:/{request.evaluate_run_id}/verdict.json")
    evidence.pop("reason")
    verdict = Verdict.model_validate(evidence)
    registry.require_same_classes(name, registry.classes_of_run(train_run_id))

    model_sha256 = tag_of(train_run_id, "pipeline.model_sha256")
    known = registry.by_digest(name, model_sha256)
    champion = registry.by_alias(name)
    champion_version = int(champion.version) if champion else None
    known_version = int(known.version) if known else None
    if champion_version not in {verdict.champion_version, known_version}:
        raise ModelError(
            f"champion of {name!r} is version {champion_version} now, but the verdict compared with version "
            f"{verdict.champion_version}; clear the evaluate task so that it judges against the present champion"
        )

    if known is None:
        tags = {
            "pipeline.key": request.task.key,
            "pipeline.train_run_id": train_run_id,
            "pipeline.evaluate_run_id": request.evaluate_run_id,
            "pipeline.prepare_run_id": tag_of(train_run_id, "pipeline.prepare_run_id"),
            "pipeline.fingerprint": tag_of(train_run_id, "pipeline.fingerprint"),
            "pipeline.model_sha256": model_sha256,
        }
        source = tag_of(train_run_id, "pipeline.logged_model_uri")
        version = registry.create_version(name, source, train_run_id, tags, verdict.reason)
    else:
        version = known
    number = int(version.version)
    log.info("%s version %d %s", name, number, "exists already" if known else "made")

    registry.set_alias(name, registry.CHALLENGER, number)
    if verdict.promote:
        registry.set_alias(name, registry.CHAMPION, number)
        log.info("champion of %s: version %d (before: %s)", name, number, champion_version or "none")
    mlflow.set_tags(
        {
            "pipeline.evaluate_run_id": request.evaluate_run_id,
            "pipeline.registered_model": name,
            "pipeline.version": str(number),
            "pipeline.promoted": str(verdict.promote).lower(),
        }
    )
    return RegisterResult(
        **run.baton,
        registered_model=name,
        version=number,
        created=known is None,
        promoted=verdict.promote,
        previous_champion=champion_version if champion_version != number else None,
    )
