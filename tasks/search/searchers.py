"""How the values of the next trial are chosen.

Every searcher is wrapped in `Numbered`, which counts the trials. After a crash, trials that have a run get the same
values again. What random and grid choose for a trial depends only on the seed and its number.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from tasks.contract.search_space import Dimension, Interval
from tasks.contract.training import TuneRequest
from tasks.search.earlier_trial import NUMBER, EarlierTrial
from tasks.search.table import mode

SEED_STRIDE = 1_000_003  # more than the trials of any request, so that no two (seed, number) share a seed


class Numbered(Searcher):
    """Counts trials from 0, and limits how many run at a time."""

    def __init__(self, inner: Searcher, dimensions: Mapping[str, Dimension], metric: str, slots: int | None) -> None:
        """Take the searcher to ask, and how many trials may run at a time; None means any number.

        A trial is chosen only when it can run: one that waited would be chosen without the results of the others.
        """
        super().__init__(metric=metric, mode=mode(metric))
        self._inner = inner
        self._dimensions = dict(dimensions)
        self._slots = slots
        self._count = 0
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Choose the values of the next trial; None when no slot is free, FINISHED when a grid is exhausted."""
        if self._slots is not None and len(self._live) >= self._slots:
            return None
        chosen = self._inner.suggest(trial_id)
        if not isinstance(chosen, dict):  # nothing now, or FINISHED
            return chosen
        values = {name: _within(self._dimensions[name], value) for name, value in chosen.items()}
        self._live.add(trial_id)
        self._count += 1
        return {NUMBER: self._count - 1, **values}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the searcher about an epoch."""
        self._inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the searcher that a trial ended."""
        self._live.discard(trial_id)
        self._inner.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: a search is resumed from MLflow (`tasks.search.earlier_trials`)."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""


class _Random(Searcher):
    """Draws each trial's values from a seed of its own."""

    def __init__(self, dimensions: Mapping[str, Dimension], seed: int) -> None:
        super().__init__()
        self._dimensions, self._seed, self._count = dimensions, seed, 0

    def suggest(self, trial_id: str) -> dict[str, Any]:
        draw = random.Random(self._seed * SEED_STRIDE + self._count)  # noqa: S311  # nosec B311  # no secret
        self._count += 1
        values = dict[str, Any]()
        for name, dimension in self._dimensions.items():
            if not isinstance(dimension, Interval):
                values[name] = draw.choice(dimension)
            elif dimension.log:
                values[name] = dimension.low * (dimension.high / dimension.low) ** draw.random()
            else:
                values[name] = draw.uniform(dimension.low, dimension.high)
        return values

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass


class _Grid(Searcher):
    """Tries every combination, the last name changing fastest."""

    def __init__(self, dimensions: Mapping[str, Dimension]) -> None:
        super().__init__()
        lists = [dimension for dimension in dimensions.values() if not isinstance(dimension, Interval)]
        self._points = [dict(zip(dimensions, point, strict=True)) for point in itertools.product(*lists)]
        self._count = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # FINISHED is a text
        if self._count == len(self._points):
            return str(Searcher.FINISHED)
        self._count += 1
        return self._points[self._count - 1]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass


def make_searcher(request: TuneRequest, known: Mapping[int, EarlierTrial], slots: int) -> Numbered:
    """Return the searcher asked for, seeded; it starts with the values of the `known` trials.

    At most `slots` trials run at a time.
    """
    dimensions = request.dimensions
    # After a crash random numbers start again: with the same seed, the first new trial would be a copy of the first old
    # one.
    options: dict[str, Any] = {"metric": request.metric, "mode": mode(request.metric)}
    options["points_to_evaluate"] = [dict(known[number].values) for number in range(len(known))] or None
    seed = (request.seed * SEED_STRIDE + len(known)) % 2**31
    match request.searcher:
        case "random":
            inner: Searcher = _Random(dimensions, request.seed)
        case "grid":
            inner = _Grid(dimensions)
        # The libraries take seconds to import: only the one that is used is.
        case "optuna":
            import optuna
            from ray.tune.search.optuna import OptunaSearch

            space = OptunaSearch.convert_search_space({name: _domain(item) for name, item in dimensions.items()})
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            inner = OptunaSearch(space=space, seed=seed, **options)
        case "hyperopt":
            from ray.tune.search.hyperopt import HyperOptSearch

            space = HyperOptSearch.convert_search_space({name: _domain(item) for name, item in dimensions.items()})
            inner = HyperOptSearch(space=space, random_state_seed=seed, **options)
    # HyperBand pauses trials until others have come as far; paused trials would hold their slots.
    return Numbered(inner, dimensions, request.metric, None if request.scheduler == "hyperband" else slots)


def combinations(request: TuneRequest) -> int:
    """Return how many trials the search runs: as many as asked for, or the whole grid."""
    if request.searcher != "grid":
        return request.trials
    return len(_Grid(request.dimensions)._points)


def _domain(dimension: Dimension) -> Any:
    if not isinstance(dimension, Interval):
        return tune.choice(dimension)
    return (tune.loguniform if dimension.log else tune.uniform)(dimension.low, dimension.high)


def _within(dimension: Dimension, value: Any) -> Any:
    """Return a value as JSON stores it, so that it is the same after a crash, and clipped to its interval."""
    if isinstance(dimension, Interval):
        return min(max(float(value), dimension.low), dimension.high)
    return next(item for item in dimension if item == value)
