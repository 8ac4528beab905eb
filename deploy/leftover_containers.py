"""Stage containers that nobody removed: `python -m deploy.leftover_containers [--days 7] [--apply]`.

Standard library and the docker command only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from deploy import leftover_stages
from deploy.leftover_stages import Leftover, Place

GRACE = 30  # seconds in which a stage that still runs marks its run KILLED


def stages(network: str) -> list[Leftover]:
    """List the stages' containers on a network, running or not.

    Raises:
        OSError: no engine answers.
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
    """Stop a container, and remove it with its own volumes."""
    _docker("stop", f"--time={GRACE}", container.id)
    _docker("rm", "--force", "--volumes", container.id)


def _docker(*arguments: str) -> str:
    fix = "start Docker Engine, and join the group docker"
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True)  # noqa: S603, S607
    except OSError as error:
        raise OSError(f"docker: {error}; {fix}") from error
    if done.returncode != 0:
        raise OSError(f"docker {arguments[0]}: {done.stderr.strip()}; {fix}")
    return done.stdout


def main(arguments: Sequence[str]) -> int:
    """List or remove; 0, or 69 where no engine answers."""
    network = os.environ.get("PIPELINE_DOCKER_NETWORK") or "vision-mlops"
    place = Place("containers", f"on network {network}", partial(stages, network), remove)
    return leftover_stages.main("deploy.leftover_containers", place, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
