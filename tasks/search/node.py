"""A node of the Compose profile `ray`: runs `ray start` with what the environment says.

    python -m tasks.search.node head|worker

Both roles get the cluster's token, a worker also the storage of searches.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.errors import PipelineError, SettingsError
from tasks.search.storage import variables
from tasks.settings import Settings, load_settings
from tasks.vision.devices import available_cpus

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # what a container's shm_size is
SHARE = 0.8  # of it for Ray's objects; if that is too much, Ray uses a file on disk
RAYLET_PORT = 6380  # fixed, so that a health check can connect to it
# A killed node is noticed after some 15 seconds. By default it takes half a minute, while its trials wait.
HEALTH = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}


def main(arguments: Sequence[str]) -> int:
    """Become a node; returns only when that cannot be, with an exit code."""
    if arguments not in (["head"], ["worker"]):
        print("node: give head or worker", file=sys.stderr)
        return 64
    try:
        settings = load_settings().with_the_stacks_ray()
        environment = os.environ | environment_of(arguments[0], settings)
        command = command_of(arguments[0], settings.ray_address, shutil.disk_usage(SHARED_MEMORY).total)
    except PipelineError as error:
        print(f"node: {error}", file=sys.stderr)
        return error.exit_code
    os.execve(sys.executable, [sys.executable, *command], environment)  # noqa: S606  # no shell, arguments of ours


def environment_of(role: str, settings: Settings) -> Mapping[str, str]:
    """Return the environment variables of Ray and its trials.

    Raises:
        SettingsError: there is no token; whoever reaches a cluster without one can run anything on it.
    """
    if settings.ray_auth_token is None:
        raise SettingsError("RAY_AUTH_TOKEN is missing; run `make setup` and use the value in .env")
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": settings.ray_auth_token.get_secret_value()}
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_DOCKER_CPU_WARNING": "1"}
    return auth | quiet | (HEALTH if role == "head" else variables(settings))


def command_of(role: str, address: str | None, shared_memory: int) -> list[str]:
    """Return the arguments of Python that start a node and block until it ends.

    Args:
        role: head or worker.
        address: of the head.
        shared_memory: of the container, in bytes.

    Raises:
        SettingsError: a worker knows no head.
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
