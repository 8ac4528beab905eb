"""The worker processes of the service: starts them, has them all swap to a model together, replaces those that die."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead
from pydantic import TypeAdapter

from tasks.errors import ModelError
from tasks.serving.accepting import ConnectionCounts
from tasks.serving.model import PreparedModel
from tasks.vision.cpus import available_cpus

MODULE = "tasks.serving.worker"
MOST_BY_DEFAULT = 4
OPENING_SECONDS = 300.0  # for a worker to open a model
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds before a worker that died is replaced

log = logging.getLogger("tasks.serving")


def number_of_workers(setting: int | None) -> int:
    """Return how many workers to run: as set, else one for each CPU, up to MOST_BY_DEFAULT."""
    return setting or min(available_cpus(), MOST_BY_DEFAULT)


class Worker:
    """One worker process and the channel to it."""

    def __init__(self, command: list[str], listener: socket.socket, environment: Mapping[str, str]) -> None:
        """Start the process."""
        self._channel, theirs = Pipe()
        with theirs:
            # A group of its own: a terminal's Ctrl-C reaches the control process only, which passes it on once.
            self.process = subprocess.Popen(  # noqa: S603  # our own module
                [*command, f"--listener={listener.fileno()}", f"--channel={theirs.fileno()}"],
                stdin=subprocess.DEVNULL,
                pass_fds=(listener.fileno(), theirs.fileno()),
                env={**os.environ, **environment},
                process_group=0,
            )

    def order(self, do: str, **more: Any) -> None:
        """Give an order (see `tasks.serving.worker.Orders`) and wait until it is carried out.

        Raises:
            ModelError: the worker says that it failed, ends meanwhile, or takes longer than OPENING_SECONDS.
        """
        try:
            self._channel.send_bytes(json.dumps({"do": do, **more}).encode())
            if not self._channel.poll(OPENING_SECONDS):
                self.process.kill()
                raise ModelError(f"a worker did not open it within {OPENING_SECONDS:g} s")
            answer = json.loads(self._channel.recv_bytes())
        except (EOFError, OSError) as error:
            code = self.process.wait()
            why = "killed, perhaps because memory is short" if code == -signal.SIGKILL else f"exit code {code}"
            raise ModelError(f"a worker ended while it opened it ({why}); see the service's log") from error
        if "error" in answer:
            raise ModelError(answer["error"])

    def close(self) -> None:
        """Close the channel of a process that has ended."""
        self._channel.close()


class Workers:
    """All workers of the service. They answer with the same model: it is put into service when all have opened it."""

    def __init__(self, count: int, listener: socket.socket, control: Path, state: Path) -> None:
        """Take what `start` needs.

        Args:
            count: how many.
            listener: the socket from which they take connections.
            control: path of the control process's own socket.
            state: an empty folder, for what they share.
        """
        self.count = count
        self.metrics = state / "metrics"
        self.metrics.mkdir()
        counts = state / "connections"
        ConnectionCounts.create(counts, count)
        self._listener = listener
        self._command = [sys.executable, "-m", MODULE, f"--counts={counts}", f"--control={control}"]
        self._workers: list[Worker] = []
        self._model: PreparedModel | None = None
        self._lock = threading.Lock()  # held while the workers are given orders, or one of them is replaced
        self._ending = threading.Event()

    def start(self) -> None:
        """Start all workers; each takes connections as soon as it can."""
        self._workers = [self._started(index) for index in range(self.count)]
        for index in range(self.count):
            threading.Thread(target=self._keep, args=(index,), name=f"worker-{index}", daemon=True).start()

    def serve(self, model: PreparedModel) -> None:
        """Have all workers open a model and check its answers, and then put it into service in all of them.

        Raises:
            ModelError: one of them cannot; then all keep the model they have.
        """
        with self._lock:
            # One that has died is given the model when it is replaced.
            alive = [worker for worker in self._workers if worker.process.poll() is None]
            if not alive:
                raise ModelError("no worker is running; see the service's log")
            errors = _each(alive, lambda worker: worker.order("prepare", model=_described(model)))
            if errors:
                _each(alive, lambda worker: worker.order("forget"))
                raise errors[0]
            self._model = model
            for error in _each(alive, lambda worker: worker.order("serve")):
                log.error("a worker did not swap and is replaced: %s", error)

    def end(self, number: int) -> None:
        """Pass a signal on to the workers; from now on one that ends is not replaced."""
        self._ending.set()
        self._listener.close()  # the workers have it; when they have ended, who connects should be refused at once
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(number)

    @property
    def ended(self) -> bool:
        """Whether all workers have ended."""
        return all(worker.process.poll() is not None for worker in self._workers)

    def _started(self, index: int) -> Worker:
        command = [*self._command, f"--index={index}", f"--workers={self.count}"]
        return Worker(command, self._listener, {"PROMETHEUS_MULTIPROC_DIR": str(self.metrics)})

    def _keep(self, index: int) -> None:
        """Let a worker take connections, wait for its end, and replace it, until the service ends."""
        delay = FIRST_DELAY
        while not self._ending.is_set():
            worker, began = self._workers[index], time.monotonic()
            try:
                with self._lock:
                    self._bring_up(worker)
            except ModelError as error:
                log.error("worker %d: %s", index, error)
                worker.process.kill()
            code = worker.process.wait()
            mark_process_dead(worker.process.pid, str(self.metrics))  # type: ignore[no-untyped-call]
            worker.close()
            if self._ending.is_set():
                return
            delay = FIRST_DELAY if time.monotonic() - began > LONGEST_DELAY else min(2 * delay, LONGEST_DELAY)
            log.error(
                "worker %d (pid %d) ended with %d; another is started in %g s", index, worker.process.pid, code, delay
            )
            self._ending.wait(delay)
            with self._lock:
                if not self._ending.is_set():
                    self._workers[index] = worker = self._started(index)
                    if self._ending.is_set():  # meanwhile, and the signal has not reached it
                        worker.process.terminate()

    def _bring_up(self, worker: Worker) -> None:
        """Give a new worker the model in service, and then the connections."""
        if self._model is not None:
            worker.order("prepare", model=_described(self._model))
            worker.order("serve")
        worker.order("accept")


def _described(model: PreparedModel) -> Any:
    return TypeAdapter(PreparedModel).dump_python(model, mode="json", by_alias=True)


def _each(workers: list[Worker], give: Callable[[Worker], None]) -> list[ModelError]:
    """Give an order to several workers at the same time; return the errors when all have answered."""
    errors: list[ModelError] = []

    def one(worker: Worker) -> None:
        try:
            give(worker)
        except ModelError as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors
