"""Turns a container of the Compose profile `ray` into a node of the Ray cluster: `python -m tasks ray-node ROLE`.

The head and the workers get the cluster's token; workers also get access to the storage of searches.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from tasks.errors import SettingsError
from tasks.search.storage import variables
from tasks.settings import Settings, load_settings
from tasks.vision.cpus import available_cpus

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # what a container's shm_size is
SHARE = 0.8  # of it for Ray's object store; for more than fits, Ray falls back to files on disk
RAYLET_PORT = 6380  # fixed, so that a health check can connect to it
# Ray notices a killed node after about 15 seconds. By default it takes 30, and the node's trials wait as long.
HEALTH = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}


def become(role: str) -> NoReturn:
    """Replace this process by `ray start`.

    Args:
        role: head or worker.

    Raises:
        SettingsError: the token, or for a worker the head's address, is missing.
    """
    settings = load_settings().with_the_stacks_ray()
    environment = os.environ | environment_of(role, settings)
    command = command_of(role, settings.ray_address, shutil.disk_usage(SHARED_MEMORY).total)
    os.execve(sys.executable, [sys.executable, *command], environment)  # noqa: S606  # no shell, arguments of ours


def environment_of(role: str, settings: Settings) -> Mapping[str, str]:
    """Return the variables that Ray and the trials it starts read.

    Raises:
        SettingsError: there is no token; anyone who reaches a cluster without one could run any code on it.
    """
    if settings.ray_auth_token is None:
        raise SettingsError("RAY_AUTH_TOKEN is missing; run `make setup` and use the value in .env")
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": settings.ray_auth_token.get_secret_value()}
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_DOCKER_CPU_WARNING": "1"}
    return auth | quiet | (HEALTH if role == "head" else variables(settings))


def command_of(role: str, address: str | None, shared_memory: int) -> list[str]:
    """Return the arguments with which Python starts a node and stays until it ends.

    Args:
        role: head or worker.
        address: HOST:PORT of the head; None when it is not known.
        shared_memory: bytes of shared memory that the container has.

    Raises:
        SettingsError: a worker without the head's address.
    """
    if role == "worker" and address is None:
        raise SettingsError("RAY_ADDRESS is missing; set it to the head's HOST:PORT")
    of_role = {
        "head": ["--head", "--port=6379", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"],
        "worker": [f"--address={address}", f"--num-cpus={available_cpus()}"],
    }
    store = f"--object-store-memory={int(shared_memory * SHARE)}"
    common = ["--block", f"--node-manager-port={RAYLET_PORT}", store, "--disable-usage-stats", "--log-style=record"]
    return ["-m", "ray.scripts.scripts", "start", *of_role[role], *common]
