"""Prewarmed stage processes: started early, so that their imports are done when their request arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.local.process import StageProcess

AHEAD = 2  # processes that wait at a time; each holds 0.1 GB once it has imported MLflow


class PrewarmedStages:
    """Processes of the next stages of one DAG run, whose tasks must all run in this process."""

    def __init__(self, starters: Mapping[str, Callable[[], StageProcess]]) -> None:
        """Start the first ones; `starters` maps each task's key, in execution order, to what starts its process."""
        self._pending = dict(starters)
        self._waiting: dict[str, StageProcess] = {}
        self._start()

    def take(self, key: str, variables: Mapping[str, str]) -> StageProcess | None:
        """Hand over the process that waits for this task, and start the next one.

        Returns:
            None when no process waits (as on a second try), or when it has exited or was started with other variables.
        """
        taken = self._waiting.pop(key, None)
        if key in self._pending:  # tasks run in order: one before this that was not taken never will be
            for passed in list(self._pending)[: list(self._pending).index(key) + 1]:
                del self._pending[passed]
                self._drop(self._waiting.pop(passed, None))
            self._start()
        if taken is not None and taken.alive and taken.variables == dict(variables):
            return taken
        self._drop(taken)
        return None

    def close(self) -> None:
        """Stop the processes that still wait."""
        while self._waiting:
            self._drop(self._waiting.popitem()[1])
        self._pending.clear()

    def _start(self) -> None:
        for key in list(self._pending)[:AHEAD]:
            if key not in self._waiting:
                self._waiting[key] = self._pending[key]()

    @staticmethod
    def _drop(process: StageProcess | None) -> None:
        if process is not None:
            process.close()
