"""Stage containers left behind. Standard library and the docker command only."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from functools import partial

from deploy.errors import DeployError
from deploy.leftover_stages import Leftover, Place

GRACE = 30  # seconds for a stage that still runs to mark its run KILLED


def stages(network: str) -> list[Leftover]:
    """List the stages' containers on a network, running or not.

    Raises:
        DeployError: no engine answers.
    """
    listed = _docker("ps", "--all", "--quiet", "--filter=label=pipeline.key", f"--filter=network={network}").split()
    shown = json.loads(_docker("inspect", *listed)) if listed else []
    return [
        Leftover(
            id=one["Id"],
            name=one["Name"].lstrip("/"),
            key=one["Config"]["Labels"]["pipeline.key"],
            state=one["State"]["Status"],
            created=datetime.fromisoformat(one["Created"][:19] + "+00:00"),
        )
        for one in shown
    ]


def remove(container: Leftover) -> None:
    """Stop a container, and remove it with its anonymous volumes."""
    _docker("stop", f"--time={GRACE}", container.id)
    _docker("rm", "--force", "--volumes", container.id)


def _docker(*arguments: str) -> str:
    fix = "start Docker Engine, and join the group docker"
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True)  # noqa: S603, S607
    except OSError as error:
        raise DeployError(f"docker: {error}; {fix}") from error
    if done.returncode != 0:
        raise DeployError(f"docker {arguments[0]}: {done.stderr.strip()}; {fix}")
    return done.stdout


def place(network: str) -> Place:
    """Return the stages on a Docker network as a place to clean up."""
    return Place("containers", f"on network {network}", partial(stages, network), remove)
