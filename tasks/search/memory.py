"""What earlier tries of a search left: the runs of its trials in MLflow and their checkpoints in storage.

A try that was killed is gone on with by *replaying*: the searcher chooses the same values again for the trials that
have a run, and each of them reports its known epochs once more, without training them. Searcher and scheduler thereby
learn all they knew, whatever state they were killed in. A trial that had come to its end ends there; another one goes
on from its checkpoint. MLflow is the one truth of what happened.

Not by Ray's `Tuner.restore`: its snapshot lags behind what MLflow has and is a pickle, which runs what whoever can
write to the storage put into it; and it leaves out the scheduler, so that the trials that are left would be judged as
if there had been no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from tasks.records.tracking import ERROR_TAG
from tasks.search.table import CONFIG_SHA256, STATE, TRIAL, VALUES, State, run_status, trial_runs
from tasks.vision.training.loop import EpochEnd

EPOCH_METRICS = tuple(item.name for item in fields(EpochEnd) if item.name != "epoch")


@dataclass(frozen=True)
class Remembered:
    """A trial that has a run."""

    number: int
    run_id: str
    values: Mapping[str, Any] = field(hash=False)
    """What the searcher chose."""
    config_sha256: str
    state: State
    error: str
    """Why it failed; empty otherwise."""
    history: tuple[EpochEnd, ...]
    """Epochs from 1 on without a gap; of a trial that has not ended its checkpoint tells how far it came."""
    checkpoints: tuple[str, ...] = ()
    """Where its checkpoints may lie, the newest first."""

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left to train."""
        return self.state is not State.RUNNING


def recall(
    experiment_id: str, tune_run_id: str, checkpoints: Mapping[int, Sequence[str]] | None = None
) -> dict[int, Remembered]:
    """Read the trials of earlier tries by number, as far as there is no gap in the numbers, and mend their runs.

    A searcher that learns chooses trial after trial, so that one after a gap has nothing to stand on: its run, and any
    second run of a number, is deleted in MLflow. A run of which all but its end was written is ended.

    Args:
        experiment_id: where the tune run is.
        tune_run_id: the search.
        checkpoints: where checkpoints of each trial lie, the newest first.
    """
    client = MlflowClient()
    known = dict[int, Remembered]()
    for run in trial_runs(experiment_id, tune_run_id):
        number = int(run.data.tags[TRIAL])
        if number == len(known):
            known[number] = _remembered(client, run, (checkpoints or {}).get(number, ()))
        else:
            client.delete_run(run.info.run_id)
    return known


def _remembered(client: MlflowClient, run: Run, checkpoints: Sequence[str]) -> Remembered:
    tags = run.data.tags
    state = State(tags.get(STATE, State.RUNNING))
    if state is not State.RUNNING and not RunStatus.is_terminated(RunStatus.from_string(run.info.status)):
        client.set_terminated(run.info.run_id, run_status(state))
    return Remembered(
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
    while all(len(epochs) + 1 in points for points in values.values()):
        epoch = len(epochs) + 1
        epochs.append(EpochEnd(epoch=epoch, **{name: points[epoch] for name, points in values.items()}))
    return tuple(epochs)


def metrics_of(end: EpochEnd) -> dict[str, float]:
    """Return what a run's metrics hold of one epoch, by name."""
    return {name: value for name, value in asdict(end).items() if name != "epoch"}
