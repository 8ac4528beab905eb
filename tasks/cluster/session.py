"""The Ray that trials and workers run on: started by the stage on this machine, or a cluster that the stage joins.

A stage joins a cluster as a node without CPUs and GPUs. So a search, its callbacks, MLflow's credentials and the log
stay in the stage; only trials and workers run elsewhere.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray._private import services
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

import tasks
from tasks.cluster import supervisor
from tasks.cluster.environment import environment
from tasks.errors import UnavailableError
from tasks.settings import Settings
from tasks.vision.cpus import available_cpus

# A custom resource of Ray, which the node of this stage alone has. With one name for all, stages on the same cluster
# would use each other's, and lose them when the other leaves.
SLOT = f"stage-{secrets.token_hex(4)}"
MIB = 2**20
STORE_MARGIN = 100 * MIB  # beside the gold: results in transit; Ray's smallest store is 75 MiB
ANSWER_SECONDS = 5.0  # for a cluster's head to accept a connection
JOIN_SECONDS = 60.0
START_SECONDS = 180.0  # for Ray's processes on this machine
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anyone
    # Nobody reads Ray's own figures, and to collect them takes a share of each core.
    "RAY_enable_metrics_collection": "false",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Workers do what the stage is for; by default all other processes come first.
    "RAY_worker_niceness": "0",
    # No process for each core beforehand: one for each trial that runs is enough, and each costs seconds and memory.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has everything
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Ray's own snapshots are not used (tasks.search.earlier_trials).
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
}

Nodes = Sequence[Mapping[str, float]]
"""Resources of each machine, by Ray's names: CPU, GPU."""
T = TypeVar("T")


@contextmanager
def ray_with(require: Callable[[Nodes, str | None], T], slots: int, settings: Settings, gold_bytes: int) -> Iterator[T]:
    """Start or join a Ray with room for what is to run on it, and clean it up afterwards.

    Args:
        require: raises an error where machines with these resources, of the cluster at this address if any, have too
            little room; else returns what the caller wants to know.
        slots: how many of `SLOT` this stage's node gets.
        settings: the cluster's address and token, if there is one.
        gold_bytes: that Ray's memory for objects must hold.

    Yields what `require` returned.

    Raises:
        UnavailableError: no cluster answers at RAY_ADDRESS, or it refuses this stage.
    """
    if settings.ray_address:
        _require_answer(settings.ray_address)
    else:  # told at once, not by a Ray that takes seconds to start
        require([{"CPU": available_cpus(), "GPU": _gpus()}], None)
    for name in ("ray", "ray.tune", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with ExitStack() as stack:
        stack.enter_context(environment(_variables(settings)))
        os.environ.pop("RAY_ADDRESS")  # the address is given explicitly
        # Ray read its settings when it was imported, and caches the token.
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
        folder = stack.enter_context(_supervised_folder())
        rights = {SLOT: float(slots)}
        stack.callback(_shut_down)
        with _same_sigterm_handler():  # Ray installs its own
            if settings.ray_address:
                stack.enter_context(_joined(settings.ray_address, folder, rights, gold_bytes + STORE_MARGIN))
            else:
                with _patience():
                    ray.init(
                        address="local",
                        num_cpus=available_cpus(),
                        resources=rights,
                        object_store_memory=gold_bytes + STORE_MARGIN,
                        include_dashboard=False,
                        log_to_driver=False,
                        configure_logging=False,
                        _temp_dir=str(folder),
                    )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        yield require(nodes, settings.ray_address)


def beside_the_stage(actor: type) -> Any:
    """Return what starts an actor on the node of this stage, in one of its slots."""
    return ray.remote(actor).options(num_cpus=0, resources={SLOT: 1})


def _gpus() -> int:
    """Return the number of GPUs here; 0 in an image without torch, where nothing uses one."""
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


@contextmanager
def _patience() -> Iterator[None]:
    """Have Ray wait longer for its own processes while the block runs.

    Ray gives them 30 s, which cannot be set, and a busy machine may need more.
    """
    get_node, deadline = services.get_node, time.monotonic() + START_SECONDS

    def wait(*arguments: str) -> object:
        while True:
            try:
                return get_node(*arguments)  # type: ignore[no-untyped-call]
            except RuntimeError:  # it has not registered yet
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    services.get_node = wait
    try:
        yield
    finally:
        services.get_node = get_node


def _variables(settings: Settings) -> dict[str, str]:
    """Return the environment for Ray's processes, where Ray reads most of its settings."""
    root = str(Path(tasks.__file__).resolve().parents[1])
    variables = QUIET | {
        "RAY_ADDRESS": "",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    if not settings.ray_address:
        return variables | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if settings.ray_auth_token:
        token = settings.ray_auth_token.get_secret_value()
        return variables | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return variables


@contextmanager
def _supervised_folder() -> Iterator[Path]:
    """Create a folder for Ray; its processes and the folder are removed however this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_short_folder()))
    lifeline, held = os.pipe()
    watch = subprocess.Popen(  # noqa: S603  # our own file
        [sys.executable, "-I", supervisor.__file__, str(lifeline), str(folder), str(os.getpid())],
        pass_fds=(lifeline,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(lifeline)
    try:
        yield folder
    finally:
        os.close(held)
        watch.wait(2 * supervisor.TIMEOUT)


@contextmanager
def _joined(address: str, folder: Path, rights: Mapping[str, float], store_bytes: int) -> Iterator[None]:
    """Join the cluster as a node without CPUs and GPUs while the block runs."""
    output = folder / "join.log"
    with output.open("wb") as file:
        node = subprocess.Popen(  # noqa: S603  # Ray's own command
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={address}"),
                *("--num-cpus=0", "--num-gpus=0", f"--resources={json.dumps(dict(rights))}"),
                *(f"--object-store-memory={store_bytes}", f"--temp-dir={folder}", "--disable-usage-stats"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _connect(address, folder, node, output)
        yield
    finally:
        ray.shutdown()
        node.terminate()
        try:
            node.wait(5)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


def _connect(address: str, folder: Path, node: subprocess.Popen[bytes], output: Path) -> None:
    deadline, cause = time.monotonic() + JOIN_SECONDS, f"it took more than {JOIN_SECONDS:.0f} s"
    while time.monotonic() < deadline:
        if node.poll() is not None:
            cause = _last_line(output)
            break
        if not list(folder.glob("session_*/sockets/raylet*")):
            time.sleep(0.2)
            continue
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, _temp_dir=str(folder))
        except (ConnectionError, RuntimeError) as error:
            cause = " ".join(str(error).split())[:300]
            time.sleep(1)
        else:
            return
    raise UnavailableError(
        f"the Ray cluster at RAY_ADDRESS={address} does not let this stage join ({cause}); "
        "check RAY_AUTH_TOKEN, and that both have the same versions of Ray and Python"
    )


def _last_line(output: Path) -> str:
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "its node ended without a message")


def _require_answer(address: str) -> None:
    """Fail within seconds when nothing listens; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UnavailableError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({type(error).__name__}: {error}); start its head, "
            "correct the address, or unset it to use this machine alone"
        ) from error


def _short_folder() -> str:
    """Return a folder for temporary files with a short path: those of Ray's sockets may have only 107 characters."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 24 else "/tmp"  # noqa: S108  # mkdtemp creates a private folder in it


def _shut_down() -> None:
    with _same_sigterm_handler():  # Ray restores the default action, which would end this process silently
        ray.shutdown()


@contextmanager
def _same_sigterm_handler() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
