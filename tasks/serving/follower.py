"""Keeps the version in service that the alias names: a thread of the control process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tasks.errors import ModelError, PipelineError
from tasks.records.transient_errors import as_unavailable
from tasks.serving.model import PreparedModel
from tasks.serving.model_reference import Reference, Target

log = logging.getLogger("tasks.serving")

RETRY_SECONDS = 60.0


class Follower:
    """Polls a reference, and replaces the model when the reference names another.

    `current` is read once per request. The new model is loaded and warmed up beside the old one and replaces it by one
    assignment, so each request uses only one of them. Whatever goes wrong, the old one stays.
    """

    def __init__(
        self,
        reference: Reference,
        poll_seconds: float,
        resolve: Callable[[Reference], Target],
        load: Callable[[Target], PreparedModel],
    ) -> None:
        """Take what to follow, the seconds between polls, and functions that resolve and load; see `start`."""
        self.reference = reference
        self.current: PreparedModel | None = None
        self.problem: str | None = None
        self._poll_seconds = poll_seconds
        self._resolve = resolve
        self._load = load
        self._refused: tuple[Target, float] | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="model-follower", daemon=True)

    def start(self) -> None:
        """Start to follow; returns at once, before the first model is loaded."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end after its current step."""
        self._stop.set()
        self._wake.set()

    def wake(self) -> None:
        """Ask the thread to poll now, and to retry a model that failed a moment ago."""
        self._refused = None
        self._wake.set()

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join()

    def poll(self) -> None:
        """Poll once: load the model that the reference names if it is not in service. Never raises."""
        try:
            target = self._resolve(self.reference)
            if self.current is None or target != self.current.target:
                self._replace(target)
            else:
                self._refused = None
        except Exception as error:  # the thread must outlive whatever MLflow, its store or a bad model throws
            self._report(error)
        else:
            if self._refused is None:
                self.problem = None

    def _follow(self) -> None:
        while not self._stop.is_set():
            self.poll()
            if self.current is not None and self.reference.follows is None:
                return
            self._wake.wait(self._poll_seconds)
            self._wake.clear()

    def _replace(self, target: Target) -> None:
        if self._refused is not None and self._refused[0] == target and time.monotonic() < self._refused[1]:
            return  # it failed a moment ago; fetching it at every poll would only burden the store
        began = time.perf_counter()
        try:
            model = self._load(target)
        except Exception as error:
            if as_unavailable(error) is None:
                self._refused = (target, time.monotonic() + max(RETRY_SECONDS, self._poll_seconds))
            raise ModelError(f"{target} cannot be served: {error}") from error
        previous, self.current, self._refused = self.current, model, None
        log.info(
            "serving %s (run %s), loaded in %.1f s, instead of %s",
            target, target.run_id, time.perf_counter() - began, previous.target if previous else "none",
        )  # fmt: skip

    def _report(self, error: Exception) -> None:
        text = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
        problem = " ".join(text.split())[:500]
        if problem != self.problem:  # once, not at every poll
            serving = f"still serving {self.current.target}" if self.current else "nothing is served yet"
            log.warning("%s (%s)", problem, serving)
        self.problem = problem
