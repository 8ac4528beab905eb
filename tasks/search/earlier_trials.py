"""What earlier tries of a search left: the runs of its trials in MLflow and their checkpoints in storage.

A search that was killed is resumed by *replaying*: the searcher chooses the same values again for the trials that have
a run, and each of these reports its known epochs again without training them. So searcher and scheduler learn
everything they knew, whatever state they were killed in. A trial that had ended ends again; any other resumes from its
checkpoint. MLflow is the only record of what happened.

Not by Ray's `Tuner.restore`: its snapshot lags behind MLflow and is a pickle, which runs whatever someone with access
to the storage put into it; and it leaves out the scheduler, so the remaining trials would be judged as if there had
been no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from tasks.records.tracking import ERROR_TAG
from tasks.search.earlier_trial import EarlierTrial, State
from tasks.search.table import CONFIG_SHA256, STATE, TRIAL, VALUES, run_status, trial_runs
from tasks.vision.training.events import EpochEnd

EPOCH_METRICS = tuple(item.name for item in fields(EpochEnd) if item.name != "epoch")
ALWAYS = tuple(item.name for item in fields(EpochEnd) if item.name != "epoch" and item.default is MISSING)


def read_earlier(
    experiment_id: str, tune_run_id: str, checkpoints: Mapping[int, Sequence[str]] | None = None
) -> dict[int, EarlierTrial]:
    """Read the trials of earlier tries by number, up to the first gap in the numbers, and repair their runs.

    A searcher that learns chooses one trial after another, so a trial after a gap cannot be reproduced: its run, and
    any second run of a number, is deleted in MLflow. A complete run that was not ended is ended.

    Args:
        experiment_id: of the tune run.
        tune_run_id: the search.
        checkpoints: where the checkpoints of each trial are, the newest first.
    """
    client = MlflowClient()
    known = dict[int, EarlierTrial]()
    for run in trial_runs(experiment_id, tune_run_id):
        number = int(run.data.tags[TRIAL])
        if number == len(known):
            known[number] = _earlier(client, run, (checkpoints or {}).get(number, ()))
        else:
            client.delete_run(run.info.run_id)
    return known


def _earlier(client: MlflowClient, run: Run, checkpoints: Sequence[str]) -> EarlierTrial:
    tags = run.data.tags
    state = State(tags.get(STATE, State.RUNNING))
    if state is not State.RUNNING and not RunStatus.is_terminated(RunStatus.from_string(run.info.status)):
        client.set_terminated(run.info.run_id, run_status(state))
    return EarlierTrial(
        number=int(tags[TRIAL]),
        run_id=str(run.info.run_id),
        values=json.loads(tags[VALUES]),
        config_sha256=tags[CONFIG_SHA256],
        state=state,
        error=tags.get(ERROR_TAG, "") if state is State.FAILED else "",
        history=() if state is State.RUNNING else _history(client, run),
        checkpoints=tuple(checkpoints),
    )


def _history(client: MlflowClient, run: Run) -> tuple[EpochEnd, ...]:
    if EPOCH_METRICS[0] not in run.data.metrics:
        return ()
    values = {
        name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        for name in EPOCH_METRICS
    }
    epochs = list[EpochEnd]()
    while all(len(epochs) + 1 in values[name] for name in ALWAYS):
        epoch = len(epochs) + 1
        known = {name: points[epoch] for name, points in values.items() if epoch in points}
        epochs.append(EpochEnd(epoch=epoch, **known))
    return tuple(epochs)
