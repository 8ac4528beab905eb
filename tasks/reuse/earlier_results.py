"""Step reuse: a stage whose inputs and code are those of an earlier finished run takes that run's result.

train, tune and evaluate only. prepare finds earlier gold by the fingerprint of its source; register, rollback and
deploy act on the world, and that is not to be left out. Nothing here imports torch: reusing a training is cheap.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tasks.contract.messages import ReusableRequest, StageRequest, StageResult
from tasks.contract.stages import STAGES, EvaluateRequest, EvaluateResult, TrainRequest, TuneRequest, parameters
from tasks.errors import PermanentError
from tasks.records import artifact_digest, gold_store, ledger, registry, tuned_sets
from tasks.records.tracking import RESULT_TAG, REUSED_FROM, StageRun, find_runs, tag_of
from tasks.records.transient_errors import as_unavailable
from tasks.records.verdict_log import judge_champion
from tasks.reuse import code_digest
from tasks.vision import accelerator

KEY = "pipeline.reuse_key"  # tag of a run that did its work itself: digest of all that its result follows from
MEASURED = "pipeline.measured_key"  # tag of an evaluate run: the same, without the policy and the champion
MIXED = "mixed"  # the key of a run whose tries worked with different inputs or code; it is never found
NOTE = "mlflow.note.content"
CANDIDATES = 20
VERDICT = {"verdict.json", "evidence.json", "probes.json"}

log = logging.getLogger("tasks.reuse")


@dataclass(frozen=True)
class _Words:
    same: str
    anew: str
    did: str = "Did nothing: took the result of"


WORDS = {
    "train": _Words("data, hyperparameters and code", "trains anew"),
    "tune": _Words("data, search and code", "searches anew"),
    "evaluate": _Words("model, champion, policy and code", "evaluates anew"),
}
CHAMPION_WORDS = _Words(
    "model, which is the champion, data and code", "evaluates anew", "Measured nothing: judged what was measured by"
)


def take_earlier(stage: str, request: StageRequest, run: StageRun) -> StageResult | None:
    """Return the result of an earlier run of the same inputs, code and packages; None where the stage is to work.

    Its `run_id` is that of the run that did the work, so that what comes after asks for the same and is reused too. A
    try that goes on with what an earlier try of the same task began takes nothing: it finishes its own run.
    """
    if not isinstance(request, ReusableRequest) or stage not in WORDS:
        return None
    try:
        reads = _reads(request, run)
    except PermanentError:  # the stage says better than we what is missing
        return None
    keys = _keys(stage, request, reads)
    tags = MlflowClient().get_run(run.run_id).data.tags
    if KEY not in tags and not request.forced(stage):
        found = _find(stage, {KEY: keys[KEY]}, run)
        if found is not None:
            _note(stage, found[0], run, WORDS[stage])
            return found[1].model_copy(update={"reused_from": found[1].run_id, "seconds": run.baton["seconds"]})
        if isinstance(request, EvaluateRequest) and reads["rival"].get("same"):
            found = _find(stage, {MEASURED: keys[MEASURED]}, run)
            if found is not None and isinstance(found[1], EvaluateResult):
                _note(stage, found[0], run, CHAMPION_WORDS)
                return judge_champion(request, run, reads["rival"]["champion"], found[1])
    _begin(run, tags, keys)
    return None


def _note(stage: str, earlier: Run, run: StageRun, words: _Words) -> None:
    """Say in the log and on the run's page whose work this run takes."""
    run_id, day = earlier.info.run_id, f"{datetime.fromtimestamp(earlier.info.start_time / 1000, UTC):%Y-%m-%d}"
    link = f"[run {run_id}](#/experiments/{run.experiment_id}/runs/{run_id})"
    client = MlflowClient()
    client.set_tag(run.run_id, NOTE, f"{words.did} {link} of {day}: same {words.same}.")
    client.set_tag(run.run_id, REUSED_FROM, run_id)
    log.info('%s: reused run %s of %s (same %s); force=["%s"] %s', stage, run_id, day, words.same, stage, words.anew)


def _begin(run: StageRun, tags: Mapping[str, str], keys: Mapping[str, str]) -> None:
    """Write down what this run's result will follow from; it counts when the run is finished."""
    client = MlflowClient()
    for name in {REUSED_FROM, NOTE} & set(tags) if REUSED_FROM in tags else ():  # what an earlier try took is gone
        client.delete_tag(run.run_id, name)
    for name, key in keys.items():
        # A stage may go on with what an earlier try left, so its result can follow from both.
        client.set_tag(run.run_id, name, key if tags.get(name, key) == key else MIXED)


def _keys(stage: str, request: StageRequest, reads: Mapping[str, Any]) -> dict[str, str]:
    """Digests of all that the result follows from, by tag."""
    # The fields with a default: what was given by hand. The others are run IDs, for which stands what they lead to.
    names = set(parameters(type(request))) - {"force", "tuned_by"}
    known = {
        "stage": stage,
        "parameters": request.model_dump(mode="json", include=names),
        "reads": reads,
        "code": code_digest.of_stage(stage),
    }
    keys = {KEY: _digest(known)}
    if stage == "evaluate":
        keys[MEASURED] = _digest({"model": reads["model"], "data": reads["data"], "code": known["code"]})
    return keys


def _digest(known: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _reads(request: ReusableRequest, run: StageRun) -> dict[str, Any]:
    """What a stage reads beyond its parameters, as values that are the same whenever its result would be."""
    match request:
        case TrainRequest():
            data = _data(request.prepare_run_id)
            # Chosen here, and kept with the run: a promotion that comes between this and the training changes nothing.
            tuned = tuned_sets.choose(request, run.run_id, data["dataset"])
            chosen = [tuned.run_id, tuned.hyperparameters.model_dump(mode="json")] if tuned else None
            return {"data": data, "tuned": chosen, "device": accelerator.kind(request.device)}
        case TuneRequest():
            return {"data": _data(request.prepare_run_id), "device": accelerator.kind(request.device)}
        case EvaluateRequest():
            digests = {name: tag_of(request.train_run_id, name) for name in (registry.SHA256, artifact_digest.TAG)}
            data = _data(tag_of(request.train_run_id, "pipeline.prepare_run_id"))
            return {"model": digests, "data": data, "rival": _rival(request, digests[registry.SHA256])}
        case _:
            raise TypeError(f"{type(request).__name__}: say here what its stage reads, or leave it out of WORDS")


def _data(prepare_run_id: str) -> dict[str, str]:
    """What a prepare run stands for: its tensors, and the licence that a model card states."""
    names = {"fingerprint": "pipeline.fingerprint", "dataset": tuned_sets.DATASET, "licence": "pipeline.data_licence"}
    return {name: tag_of(prepare_run_id, tag) for name, tag in names.items()}


def _rival(request: EvaluateRequest, sha256: str) -> dict[str, Any]:
    """What a verdict owes to the past: the champion, how many it met, and who took these weights out of service."""
    name = request.registered_model
    champion = registry.by_alias(name)
    if champion is not None and champion.tags.get(registry.SHA256) == sha256:
        return {"champion": int(champion.version), "same": True}
    rolled_back = ledger.rolled_back(name, sha256)
    if champion is None:
        return {"champion": None, "rolled_back": rolled_back}
    version = int(champion.version)
    digests = [champion.tags.get(tag) for tag in (registry.SHA256, artifact_digest.TAG)]
    looks = ledger.comparisons(name, version, sha256)
    return {"champion": version, "digests": digests, "looks": looks, "rolled_back": rolled_back}


def _find(stage: str, key: Mapping[str, str], run: StageRun) -> tuple[Run, StageResult] | None:
    """Find the newest finished run with this key of which nothing is lost, and its result."""
    tags = {"pipeline.stage": stage, **key}
    for found in find_runs(run.experiment_id, tags, status="FINISHED", limit=CANDIDATES):
        try:
            result = STAGES[stage].parse_result(found.data.tags.get(RESULT_TAG, ""))
            lost = _lost(stage, found)
        except PermanentError as error:
            lost = str(error)
        if not lost:
            return found, result
        log.warning("%s: run %s is not reused: %s", stage, found.info.run_id, lost)
    return None


def _lost(stage: str, run: Run) -> str:
    """Name what of a run is gone that the stages after it need; empty when all is there.

    Raises:
        DataError: a run that it leads to, or a tag of it, is gone.
    """
    client, run_id = MlflowClient(), run.info.run_id
    there = {file.path for file in client.list_artifacts(run_id)}
    match stage:
        case "train":
            if not gold_store.exists(tag_of(tag_of(run_id, "pipeline.prepare_run_id"), gold_store.GOLD_RUN)):
                return "the gold it was trained on is gone"
            if not _whole_model(run):
                return "its model is gone or damaged"
            return "" if "classes.json" in there else "its classes.json is gone"
        case "evaluate":
            trained = client.get_run(tag_of(run_id, "pipeline.train_run_id"))
            if trained.info.lifecycle_stage != "active":
                return f"its train run {trained.info.run_id} is deleted"
            missing = ", ".join(sorted(VERDICT - there))
            return f"its {missing} is gone" if missing else _lost("train", trained)
        case _:
            tuned_sets.read(run_id)
            return ""


def _whole_model(run: Run) -> bool:
    """Tell whether the store gives back the very files of the model that a train run logged."""
    uri, sha256 = (run.data.tags.get(name, "") for name in ("pipeline.logged_model_uri", artifact_digest.TAG))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
            return artifact_digest.digest(Path(path)) == sha256
    except (MlflowException, OSError) as error:
        if as_unavailable(error) is not None:
            raise
        return False
