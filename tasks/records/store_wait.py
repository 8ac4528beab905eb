"""Waits for MLflow and its store: what failed while they were away is tried again, for a limited time.

MLflow's client tries each request again by itself, for about two minutes (`tracking.MLFLOW_DEFAULTS`); this begins
where that ends. It is for what may be done twice: the answer to the first try may have been lost on its way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tasks.errors import PermanentError, StoreFullError, UnavailableError
from tasks.records.transient_errors import as_unavailable

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries: each pause is twice the one before
QUIET_SECONDS = 20.0  # between two lines in the log, however many threads wait

log = logging.getLogger("tasks.store")
T = TypeVar("T")


class StoreWait:
    """Reads from a store, or writes to it, for several threads.

    While the store does not answer, one of them logs it for all; the time that it may be away is counted for all.
    """

    def __init__(self, seconds: float, say: Callable[[str], object] = log.warning) -> None:
        """Take how many seconds the store may be away, and what logs that it is away and that it answers again."""
        self._seconds, self._say = seconds, say
        self._away_since: float | None = None
        self._spoke = 0.0
        self._lock = threading.Lock()

    def __call__(self, act: Callable[[], T], what: str) -> T:
        """Return what `act` returns; call it again while the store is away.

        Args:
            act: reads from the store, or writes what is the same when it is written twice.
            what: it does, for the log and errors, such as "to read gold/train-00001-of-00012.npy".

        Raises:
            UnavailableError: the store was away for longer than it may be. Other errors of `act` are raised at once.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                found = act()
            except PermanentError:  # the store did answer, whatever was tried before it
                raise
            except Exception as error:
                away = as_unavailable(error)
                if away is None or isinstance(away, StoreFullError):
                    raise
                left = self._note(away, what)
                if left <= 0:
                    raise UnavailableError(
                        f"the store was away for {self._seconds:.0f} s (PIPELINE_STORE_WAIT_SECONDS) while the stage "
                        f"waited {what}; a retry goes on from here: {away}"
                    ) from error
            else:
                self._answered()
                return found
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)

    def stop_waiting(self) -> None:
        """Have what fails from now on fail at once: the stage is told to end."""
        self._seconds = 0.0

    def _note(self, away: UnavailableError, what: str) -> float:
        """Note that the store does not answer; return how many seconds it may still be away."""
        with self._lock:
            now = time.monotonic()
            if self._away_since is None:
                self._away_since, self._spoke = now, now - QUIET_SECONDS
            left = self._away_since + self._seconds - now
            if left > 0 and now - self._spoke >= QUIET_SECONDS:
                self._spoke = now
                self._say(f"waiting {what}, for up to {left:.0f} s: {away}")
            return left

    def _answered(self) -> None:
        with self._lock:
            if self._away_since is not None:
                seconds, self._away_since = time.monotonic() - self._away_since, None
                self._say(f"the store answers again after {seconds:.0f} s; going on")
