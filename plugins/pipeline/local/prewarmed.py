"""Stages' processes that are started before their turn: what they import is ready when their request comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.local.process import StageProcess

AHEAD = 2  # processes that wait; one that has imported MLflow holds 0.1 GB


class Standby:
    """The processes of the next stages of one DAG run whose tasks all run in this process."""

    def __init__(self, starters: Mapping[str, Callable[[], StageProcess]]) -> None:
        """Start the first ones; `starters` are the tasks' keys, in the order of their turns, and what starts each."""
        self._to_come = dict(starters)
        self._waiting: dict[str, StageProcess] = {}
        self._start()

    def take(self, key: str, variables: Mapping[str, str]) -> StageProcess | None:
        """Give the caller the process that waits for this task, and start the next one.

        Returns:
            None when none waits, as on a second try, or when it has ended or has other variables than it should have.
        """
        taken = self._waiting.pop(key, None)
        if key in self._to_come:  # a task before it that has not come will not come any more
            for passed in list(self._to_come)[: list(self._to_come).index(key) + 1]:
                del self._to_come[passed]
                self._drop(self._waiting.pop(passed, None))
            self._start()
        if taken is not None and taken.alive and taken.variables == dict(variables):
            return taken
        self._drop(taken)
        return None

    def close(self) -> None:
        """End those that wait."""
        while self._waiting:
            self._drop(self._waiting.popitem()[1])
        self._to_come.clear()

    def _start(self) -> None:
        for key in list(self._to_come)[:AHEAD]:
            if key not in self._waiting:
                self._waiting[key] = self._to_come[key]()

    @staticmethod
    def _drop(process: StageProcess | None) -> None:
        if process is not None:
            process.close()
