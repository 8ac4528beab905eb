"""The session's stack with the profile `ray`: a head and two workers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .conftest import PROJECT, Stack, build_images

FILE = "docker-compose-mlops.yml"


def containers(label: str) -> list[str]:
    """Short IDs of those that run on the session's network, which are their host names too."""
    command = ["docker", "ps", "--quiet", f"--filter=network={PROJECT}", f"--filter=label={label}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def ray_workers() -> list[str]:
    """Host names of the cluster's workers."""
    return containers("com.docker.compose.service=ray-worker")


@contextmanager
def ray_cluster(stack: Stack, folder: Path) -> Iterator[Stack]:
    """Yield the stack with one word more in its `.env`, which lies in `folder`, while the cluster runs."""
    build_images("tune")
    variables = stack.variables | {"COMPOSE_PROFILES": "ray"}
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    working = Stack(env_file, variables)
    try:
        working.compose("up", "--detach", "--wait", "--wait-timeout", "1800", "ray-worker", file=FILE)
        yield working
    finally:
        working.compose("rm", "--stop", "--force", "ray-worker", "ray-head", file=FILE)
