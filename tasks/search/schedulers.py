"""Which trials are stopped before their last epoch.

Learning-rate schedules span all epochs of the request, however early a trial is stopped: a stopped training lacks its
end, it is not squeezed into fewer epochs.
"""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from tasks.contract.training import TuneRequest
from tasks.search.earlier_trial import EPOCH, REPLAYED
from tasks.search.table import mode


class Asha(AsyncHyperBandScheduler):
    """ASHA that lets a trial replay the epochs it had trained: it was continued then."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the result at its rung; decide, unless it was decided in an earlier try."""
        action = str(super().on_trial_result(tune_controller, trial, result))
        return TrialScheduler.CONTINUE if result[REPLAYED] else action


class Median(MedianStoppingRule):
    """Median stopping that lets a trial replay the epochs it had trained: it was continued then."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the result; decide, unless it was decided in an earlier try."""
        action = str(super().on_trial_result(tune_controller, trial, result))
        if result[REPLAYED]:
            self._stopped_trials.discard(trial)
            return TrialScheduler.CONTINUE
        return action


def make_scheduler(request: TuneRequest) -> TrialScheduler:
    """Return the scheduler asked for."""
    aim: dict[str, Any] = {"time_attr": EPOCH, "metric": request.metric, "mode": mode(request.metric)}
    match request.scheduler:
        case "asha":
            return Asha(
                max_t=request.max_epochs,
                grace_period=request.grace_epochs,
                reduction_factor=request.reduction_factor,
                **aim,
            )
        case "hyperband":
            return HyperBandScheduler(max_t=request.max_epochs, reduction_factor=request.reduction_factor, **aim)
        case "median":
            # min_time_slice: never pause a trial to let others catch up, which would only cost checkpoints.
            return Median(grace_period=request.grace_epochs, min_time_slice=request.max_epochs, **aim)
        case "none":
            return FIFOScheduler()  # type: ignore[no-untyped-call]


def rungs(request: TuneRequest) -> tuple[int, ...]:
    """Return the epochs at which ASHA decides; empty for schedulers whose decisions depend on the other trials."""
    if request.scheduler != "asha":
        return ()
    rung, found = request.grace_epochs, []
    while rung < request.max_epochs:
        found.append(rung)
        rung *= request.reduction_factor
    return tuple(found)
