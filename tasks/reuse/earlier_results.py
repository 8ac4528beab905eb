"""Step reuse: a stage takes the result of an earlier finished run that had the same inputs and code.

This applies to stages that declare their inputs in the table of stages. prepare itself finds earlier gold by the
fingerprint of its source; register, rollback and deploy change external state, so they always run. Nothing here imports
torch, so that reusing a training is cheap.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.contract.messages import ReusableRequest, StageResult
from tasks.contract.stage import Stage
from tasks.contract.stages import parameters
from tasks.errors import PermanentError
from tasks.records.inputs.stage_inputs import StageInputs
from tasks.records.queries import find_runs
from tasks.records.tracking import RESULT_TAG, REUSED_FROM, StageRun
from tasks.reuse import code_digest

KEY = "pipeline.reuse_key"  # tag of a run that did its own work: digest of all that its result depends on
MEASURED = "pipeline.measured_key"  # tag of an evaluate run: the same, without the policy and the champion
MIXED = "mixed"  # the key of a run whose tries had different inputs or code; it is never reused
NOTE = "mlflow.note.content"

log = logging.getLogger("tasks.reuse")


def take_earlier(stage: Stage, request: ReusableRequest, inputs: StageInputs, run: StageRun) -> StageResult | None:
    """Return the result of an earlier run with the same inputs, code and packages; None if the stage has to run.

    Its `run_id` is that of the run that did the work, so that later stages get the same input and are reused too. A try
    that resumes an earlier try of the same task reuses nothing: it finishes its own run.
    """
    keys = _keys(stage, request, inputs)
    tags = MlflowClient().get_run(run.run_id).data.tags
    if KEY in keys and KEY not in tags and not request.forced(stage.name):
        found = _find(stage, {KEY: keys[KEY]}, inputs, run)
        if found is not None:
            _note(stage, found[0], run, "Reused the result of", stage.depends_on)
            seconds = run.result_fields["seconds"]
            return found[1].model_copy(update={"reused_from": found[1].run_id, "seconds": seconds})
        if inputs.only_to_judge:
            found = _find(stage, {MEASURED: keys[MEASURED]}, inputs, run)
            if found is not None:
                did = "Judged the measurements of"
                _note(stage, found[0], run, did, inputs.measured_same)
                return inputs.judge(request, run, found[1])
    _begin(run, tags, keys)
    return None


def _note(stage: Stage, earlier: Run, run: StageRun, did: str, same: str) -> None:
    """Say in the log and on the run's page which run is reused."""
    run_id, day = earlier.info.run_id, f"{datetime.fromtimestamp(earlier.info.start_time / 1000, UTC):%Y-%m-%d}"
    link = f"[run {run_id}](#/experiments/{run.experiment_id}/runs/{run_id})"
    client = MlflowClient()
    client.set_tag(run.run_id, NOTE, f"{did} {link} of {day}: same {same}.")
    client.set_tag(run.run_id, REUSED_FROM, run_id)
    log.info('%s: reused run %s of %s (same %s); force=["%s"] runs it again', stage.name, run_id, day, same, stage.name)


def _begin(run: StageRun, tags: Mapping[str, str], keys: Mapping[str, str]) -> None:
    """Record what this run's result depends on; it counts once the run is finished."""
    client = MlflowClient()
    for name in {REUSED_FROM, NOTE} & set(tags) if REUSED_FROM in tags else ():  # what an earlier try reused is gone
        client.delete_tag(run.run_id, name)
    for name, key in keys.items():
        # A stage may resume what an earlier try left, so its result can depend on the inputs of both.
        client.set_tag(run.run_id, name, key if tags.get(name, key) == key else MIXED)


def _keys(stage: Stage, request: ReusableRequest, inputs: StageInputs) -> dict[str, str]:
    """Digests of all that the result depends on, by tag; empty if the inputs have no identity."""
    identity, measured = inputs.identity, inputs.measured
    if identity is None:
        return {}
    # Fields with a default are parameters. The others are run IDs: the identity of the inputs covers what they lead to.
    names = set(parameters(type(request))) - request.outside_of_reuse
    code = code_digest.of_stage(stage.name)
    known = {
        "stage": stage.name,
        "parameters": request.model_dump(mode="json", include=names),
        "reads": identity,
        "code": code,
    }
    keys = {KEY: _digest(known)}
    if measured is not None:
        keys[MEASURED] = _digest({**measured, "code": code})
    return keys


def _digest(known: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _find(stage: Stage, key: Mapping[str, str], inputs: StageInputs, run: StageRun) -> tuple[Run, StageResult] | None:
    """Find the newest finished run with this key whose outputs still exist, and its result."""
    tags = {"pipeline.stage": stage.name, **key}
    for found in find_runs(run.experiment_id, tags, status="FINISHED"):
        try:
            result = stage.parse_result(found.data.tags.get(RESULT_TAG, ""))
            lost = inputs.lost(found)
        except PermanentError as error:
            lost = str(error)
        if not lost:
            return found, result
        log.warning("%s: run %s is not reused: %s", stage.name, found.info.run_id, lost)
    return None
