"""The progress of a search in the stage's log: a line for each trial that ends, a table every half minute."""

from __future__ import annotations

import logging
import time
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial

from tasks.contract.training import TuneRequest
from tasks.search.earlier_trial import EPOCH, NUMBER, REPLAYED, State
from tasks.search.journal import reason
from tasks.search.table import best_of
from tasks.search.trial import FINISHED
from tasks.text_table import columns

TABLE_SECONDS = 30.0

log = logging.getLogger("tasks.tune")


class Progress(Callback):
    """Counts trials and logs them."""

    def __init__(self, request: TuneRequest, trials: int) -> None:
        """Take the number of trials that there will be."""
        self._request, self._all = request, trials
        self._counts = dict.fromkeys((State.FINISHED, State.STOPPED, State.FAILED), 0)
        self._values: dict[int, list[float]] = {}
        self._replayed: dict[int, int] = {}
        self._best: tuple[float, int] | None = None
        self._trained = 0  # trials that were not ended before this try
        self._started = self._told = time.monotonic()

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep everything out of the copy that Ray makes of its settings."""
        return (Callback, ())

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Remember an epoch; log where a trial of an earlier try resumes."""
        number, epoch = int(trial.config[NUMBER]), int(result[EPOCH])
        if result[REPLAYED]:
            self._replayed[number] = epoch
        elif self._replayed.pop(number, None) == epoch - 1:
            log.info("trial %d resumes after epoch %d, from its checkpoint", number, epoch - 1)
        self._values.setdefault(number, []).append(float(result[self._request.metric]))

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Log a trial that finished or was stopped."""
        result = trial.last_result or {}
        self._end(trial, State.FINISHED if result.get(FINISHED) else State.STOPPED)

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Log a trial that failed."""
        self._end(trial, State.FAILED, f": {reason(trial)}")

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """Log the table every half minute."""
        if time.monotonic() - self._told >= TABLE_SECONDS:
            self._told = time.monotonic()
            running = sum(trial.status == RayTrial.RUNNING for trial in trials)
            log.info("the search so far:\n%s", self.table(running))

    def table(self, running: int) -> str:
        """Return the counts, the best trial and the time left as a table of two lines."""
        counts, best = self._counts, self._best
        return columns(
            [
                ["running", "finished", "stopped", "failed", "of", "best", "time left"],
                [
                    str(running),
                    *(str(counts[state]) for state in (State.FINISHED, State.STOPPED, State.FAILED)),
                    str(self._all),
                    f"{best[0]:.4f} (trial {best[1]})" if best else "-",
                    self._left(),
                ],
            ]
        )

    def _end(self, trial: RayTrial, state: State, why: str = "") -> None:
        number = int(trial.config[NUMBER])
        self._counts[state] += 1
        result = trial.last_result or {}
        known = bool(result.get(REPLAYED))
        self._trained += not known
        values = self._values.get(number, [])
        value = best_of(values, self._request.metric)
        mark = ""
        if value is not None and state is not State.FAILED:
            best = self._best
            if best is None or (best_of([value, best[0]], self._request.metric) == value != best[0]):
                self._best, mark = (value, number), " (best)"
        told = f"{self._request.metric} {value:.4f}{mark}, " if value is not None else ""
        log.info(
            "trial %d %s%s after epoch %d: %s%s%s; %d of %d done, %s",
            *(number, state, " in an earlier try" if known else "", result.get(EPOCH, 0), told, self._chosen(trial)),
            *(why, sum(self._counts.values()), self._all, self._left()),
        )

    def _chosen(self, trial: RayTrial) -> str:
        return ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in trial.config.items()
            if name != NUMBER
        )

    def _left(self) -> str:
        done = sum(self._counts.values())
        if not self._trained:
            return "time left unknown"
        seconds = (time.monotonic() - self._started) / self._trained * (self._all - done)
        return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"
