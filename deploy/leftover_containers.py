"""Stage containers that nobody removed: `python -m deploy.leftover_containers [--days 7] [--apply]`, part of `make gc`.

A stage's container is removed when its task ends, and by the task's next try. One that is left was started by a
scheduler that died, for a task that was not tried again. Standard library and the docker command only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DAYS = 7.0
GRACE = 30  # seconds in which a stage that still runs marks its run KILLED


@dataclass(frozen=True)
class Container:
    """A container of a stage."""

    id: str
    name: str
    key: str
    """DAG, DAG run and task."""
    state: str
    created: datetime


def find(network: str, before: datetime) -> list[Container]:
    """List the stages' containers on a network, running or not, that were made before `before`.

    Raises:
        OSError: no engine answers.
    """
    listed = _docker("ps", "--all", "--quiet", "--filter=label=pipeline.key", f"--filter=network={network}").split()
    shown = json.loads(_docker("inspect", *listed)) if listed else []
    found = [
        Container(
            id=one["Id"],
            name=one["Name"].lstrip("/"),
            key=one["Config"]["Labels"]["pipeline.key"],
            state=one["State"]["Status"],
            created=datetime.fromisoformat(one["Created"][:19] + "+00:00"),
        )
        for one in shown
    ]
    return sorted((one for one in found if one.created < before), key=lambda one: one.created)


def remove(container: Container) -> None:
    """Stop a container, and remove it with its own volumes."""
    _docker("stop", f"--time={GRACE}", container.id)
    _docker("rm", "--force", "--volumes", container.id)


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)  # noqa: S603, S607
    if done.returncode != 0:
        raise OSError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def main(arguments: Sequence[str]) -> int:
    """List or remove; 0, or 69 where no engine answers."""
    parser = argparse.ArgumentParser(prog="deploy.leftover_containers", description=__doc__.split("\n")[0])
    parser.add_argument("--days", type=float, default=DAYS, help="since they were made (%(default)g)")
    parser.add_argument("--apply", action="store_true", help="remove them; otherwise they are only listed")
    given = parser.parse_args(arguments)
    if given.days < 0:
        parser.error(f"--days={given.days:g}: give 0 or more")
    network = os.environ.get("PIPELINE_DOCKER_NETWORK") or "vision-mlops"
    try:
        found = find(network, datetime.now(UTC) - timedelta(days=given.days))
        for one in found:
            print(f"{one.name}  {one.state} since {one.created:%Y-%m-%d %H:%M} UTC  {one.key}")
            if given.apply:
                remove(one)
    except OSError as error:
        print(f"{error}; start Docker Engine, and join the group docker", file=sys.stderr)
        return 69
    verb = "removed" if given.apply else "would be removed (APPLY=1 removes them)"
    print(f"containers: {len(found)} {verb}" if found else f"containers: none is left over on network {network}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
