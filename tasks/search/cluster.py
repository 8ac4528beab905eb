"""The Ray that trials run on: one of the stage's own on this machine, or a cluster that it joins for the time.

A stage joins a cluster as a node without CPUs and GPUs of its own. The search, its callbacks, MLflow's credentials and
the log so stay in the stage; only trials run elsewhere.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

import tasks
from tasks.contract import TuneRequest
from tasks.errors import RequestError
from tasks.settings import Settings
from tasks.vision.devices import available_cpus

SLOT = "trial"  # Ray's name for the right to run a trial, of which there are as many as trials may run at a time
MIB = 2**20
STORE_MARGIN = 100 * MIB  # beside the gold: results on their way, and Ray's smallest store is 75 MiB
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anyone
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has it all
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Ray's own snapshots are not used (tasks.search.memory).
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
}

log = logging.getLogger("tasks.tune")


@contextmanager
def ray_for(request: TuneRequest, settings: Settings, gold_bytes: int) -> Iterator[None]:
    """Start or join a Ray with room for the request's trials, and leave nothing of it behind.

    Raises:
        RequestError: no machine there has the CPUs or GPUs of one trial.
        UnavailableError: no cluster answers at RAY_ADDRESS.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    root = str(Path(tasks.__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    handler = signal.getsignal(signal.SIGTERM)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_short_folder()))
    try:
        _start(request, folder, gold_bytes)
        _restore(handler)  # Ray has put its own in place
        _require_room(request)
        yield
    finally:
        ray.shutdown()
        _restore(handler)
        shutil.rmtree(folder, ignore_errors=True)


def _start(request: TuneRequest, folder: Path, gold_bytes: int) -> None:
    ray.init(
        address="local",
        num_cpus=available_cpus(),
        resources={SLOT: request.concurrent_trials or request.trials},
        object_store_memory=gold_bytes + STORE_MARGIN,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(folder),
    )


def _require_room(request: TuneRequest) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    for name, kind, asked in (
        ("trial_cpus", "CPU", request.trial_cpus),
        ("trial_gpus", "GPU", request.trial_gpus),
    ):
        most = max((node.get(kind, 0) for node in nodes), default=0)
        if asked > most:
            raise RequestError(
                f"{name}={asked:g} is more than any machine has ({most:g} {kind}s); lower it"
                + (", or set RAY_ADDRESS to a cluster that has as many" if not os.environ.get("RAY_ADDRESS") else "")
            )


def _short_folder() -> str:
    """Return a folder for temporary files whose path leaves room for Ray's sockets, which may have 107 characters."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 24 else "/tmp"  # noqa: S108  # mkdtemp makes a private folder in it


def _restore(handler: object) -> None:
    if callable(handler) or isinstance(handler, signal.Handlers):
        signal.signal(signal.SIGTERM, handler)
