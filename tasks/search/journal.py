"""The search in MLflow: one run for each trial, however often the search is retried.

Ray's loop hands over what happened, and a thread writes it: so a slow server delays no trial.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial
from ray.tune.result import HOSTNAME

from tasks.contract.recipe import Recipe
from tasks.records.metric_log import MetricLog
from tasks.records.tracking import ERROR_TAG, StageRun
from tasks.search.earlier_trial import EPOCH, NUMBER, REPLAYED, State
from tasks.search.earlier_trials import EPOCH_METRICS
from tasks.search.schedulers import rungs
from tasks.search.table import CONFIG_SHA256, RUNG, SECONDS, STATE, TRIAL, VALUES, run_status
from tasks.search.trial import BATCHES, FINISHED, Plan, recipe_of, sha256_of

STAGE = "trial"
MACHINE = "pipeline.machine"  # tag: name of the machine on which a trial ended
WORKERS = "pipeline.workers"  # tag: how many trained it; as of a run of train, none where it was one process
INHERITED = ("pipeline.dag_id", "pipeline.dag_run_id", "mlflow.source.name", "mlflow.source.git.commit")


class Journal(Callback):
    """Writes each trial to its run."""

    def __init__(self, plan: Plan, run: StageRun) -> None:
        """Start the writing thread; `known` trials have runs already."""
        self._plan, self._request, self._run, self._known = plan, plan.request, run, plan.known
        self._writer = _Writer()
        self._client = MlflowClient()
        tags = self._client.get_run(run.run_id).data.tags
        self._inherited = {name: tags[name] for name in INHERITED if name in tags}
        self._key = tags.get("pipeline.key", run.run_id)
        self._trials: dict[int, _TrialRun] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep everything out of the copy that Ray makes of its settings."""
        return (Callback, ())

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Find the trial's run, or create it."""
        self._entry(trial).starts += 1

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log an epoch."""
        entry = self._entry(trial)
        epoch = int(result[EPOCH])
        again = epoch <= entry.epochs  # its machine was lost, and it resumed from an earlier epoch
        entry.epochs = max(entry.epochs, epoch)
        entry.seconds += float(result["epoch_seconds"])
        metrics = {name: float(result[name]) for name in EPOCH_METRICS if result[name] is not None}
        batches = list(result[BATCHES])
        if not again and not (result[REPLAYED] and entry.ended):
            self._writer.put(lambda: entry.add(epoch, metrics, batches))

    def on_trial_save(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Write everything that a later try will not repeat."""
        self._writer.put(self._entry(trial).flush)

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Close the run of a trial that trained all its epochs, or was stopped."""
        finished = bool((trial.last_result or {}).get(FINISHED))
        self._close(trial, State.FINISHED if finished else State.STOPPED)

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Close the run of a trial that failed."""
        self._close(trial, State.FAILED, reason(trial))

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """Fail the search when MLflow cannot be written to.

        Raises:
            MlflowException: what happened in the writing thread.
        """
        self._writer.check()

    def interrupt(self) -> None:
        """Mark the runs of unfinished trials as killed; a later try resumes them."""
        for entry in self._trials.values():
            if not entry.closed:
                self._writer.put(partial(entry.interrupt, self._client))

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            MlflowException: what happened in the writing thread.
        """
        self._writer.close()

    def _entry(self, trial: RayTrial) -> _TrialRun:
        """Return the entry of a trial; its run is found or created first, also if it failed before it started."""
        number = int(trial.config[NUMBER])
        if number not in self._trials:
            values = {name: value for name, value in trial.config.items() if name != NUMBER}
            entry = self._trials[number] = _TrialRun(number, recipe_of(self._plan, trial.config), values)
            self._writer.put(lambda: self._open(entry))
        return self._trials[number]

    def _open(self, entry: _TrialRun) -> None:
        before = self._known.get(entry.number)
        sha256 = sha256_of(entry.recipe)
        if before is not None and before.config_sha256 == sha256:
            entry.run_id, entry.ended = before.run_id, before.ended
            if not entry.ended:
                entry.metrics = MetricLog(entry.run_id)
                self._client.update_run(entry.run_id, status="RUNNING")
                self._log_params(entry)
            return
        if before is not None:  # of a search that chose other values
            self._client.delete_run(before.run_id)
        tags = self._inherited | {
            "mlflow.parentRunId": self._run.run_id,
            "pipeline.stage": STAGE,
            "pipeline.key": f"{self._key}/{entry.number}",
            TRIAL: str(entry.number),
            CONFIG_SHA256: sha256,
            VALUES: json.dumps(entry.values),
            STATE: State.RUNNING,
        }
        if self._request.trial_workers > 1:
            tags[WORKERS] = str(self._request.trial_workers)
        run = self._client.create_run(self._run.experiment_id, tags=tags, run_name=f"trial-{entry.number:05d}")
        entry.run_id = str(run.info.run_id)
        entry.metrics = MetricLog(entry.run_id, fresh=True)
        self._log_params(entry)

    def _log_params(self, entry: _TrialRun) -> None:
        params = [Param(name, str(value)) for name, value in entry.recipe.model_dump(mode="json").items()]
        self._client.log_batch(entry.run_id, params=params)

    def _close(self, trial: RayTrial, state: State, error: str = "") -> None:
        entry = self._entry(trial)
        if entry.closed:
            return
        entry.closed = True
        tags = {STATE: str(state), RUNG: str(self._rung(entry, state))}
        if machine := (trial.last_result or {}).get(HOSTNAME):
            tags[MACHINE] = str(machine)
        if error:
            tags[ERROR_TAG] = error
        seconds = entry.seconds
        self._writer.put(lambda: entry.close(self._client, tags, seconds, state))

    def _rung(self, entry: _TrialRun, state: State) -> int:
        """Count the scheduler's decisions that the trial survived."""
        if self._request.scheduler == "hyperband":
            return max(0, entry.starts - 1)
        reached = sum(epoch <= entry.epochs for epoch in rungs(self._request))
        return reached - (state is State.STOPPED and reached > 0)


class _TrialRun:
    """What the journal knows about one trial."""

    def __init__(self, number: int, recipe: Recipe, values: Mapping[str, Any]) -> None:
        self.number, self.recipe, self.values = number, recipe, dict(values)
        self.run_id = ""
        self.starts = 0  # also after a pause
        self.ended = False  # in an earlier try: its run is complete
        self.closed = False
        self.epochs = 0
        self.seconds = 0.0
        self.metrics: MetricLog | None = None

    def add(self, epoch: int, metrics: Mapping[str, float], batches: list[tuple[int, float, float]]) -> None:
        if self.metrics is None:
            return
        for step, loss, learning_rate in batches:
            self.metrics.add(step, {"batch_loss": loss, "batch_learning_rate": learning_rate})
        self.metrics.add(epoch, metrics)

    def flush(self) -> None:
        if self.metrics is not None:
            self.metrics.flush()

    def close(self, client: MlflowClient, tags: Mapping[str, str], seconds: float, state: State) -> None:
        if self.ended:
            return
        self.flush()
        now = int(time.time() * 1000)
        client.log_batch(
            self.run_id,
            metrics=[Metric(SECONDS, seconds, now, 0)],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        client.set_terminated(self.run_id, run_status(state))

    def interrupt(self, client: MlflowClient) -> None:
        if self.run_id and not self.ended:
            self.flush()
            client.set_terminated(self.run_id, "KILLED")


class _Writer:
    """A thread that runs one job after another, and keeps the first failure."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def put(self, act: Any) -> None:
        self._queue.put(act)

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self.check()

    def _work(self) -> None:
        while (act := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    act()
                except Exception as error:  # raised by `check`, in the thread that can act on it
                    self._failure = error


def reason(trial: RayTrial) -> str:
    """Say in one line why a trial failed."""
    path = trial.error_file
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines() if path else []
    told = [line.strip() for line in lines if line.strip() and not line.startswith("Failure #")]
    if not told:
        return "no reason is known"
    own = [line.removeprefix("tasks.errors.") for line in told if line.startswith("tasks.errors.")]
    return (own[-1] if own else told[-1] if "Traceback" in "".join(told) else told[0])[:500]
