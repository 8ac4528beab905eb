"""Follow the output of some services, whichever compose file they are in, or of all."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from deploy import engine
from deploy.errors import UNAVAILABLE, USAGE, DeployError

TAIL_OF_ONE, TAIL_OF_ALL = 200, 50  # lines shown before the new ones


def commands(wanted: Sequence[str], known: dict[str, list[str]], env_file: Path) -> list[list[str]]:
    """Return the commands that follow the services, one for each compose file that has some of them.

    Args:
        wanted: names of services; none means all.
        known: services of each compose file.
        env_file: `.env` of the stack.

    Raises:
        DeployError: no compose file has one of these services.
    """
    names = sorted(name for services in known.values() for name in services)
    for name in wanted:
        if name not in names:
            raise DeployError(f"unknown service {name!r}; choose from {', '.join(names)}", USAGE)
    tail = str(TAIL_OF_ONE if wanted else TAIL_OF_ALL)
    found = []
    for file, services in known.items():
        chosen = [name for name in wanted if name in services]
        if chosen or not wanted:
            found.append(engine.compose(file, "logs", "--follow", "--tail", tail, *chosen, env_file=env_file))
    return found


def follow(wanted: Sequence[str], env_file: Path) -> int:
    """Print what the services write until Ctrl-C, or until their containers end.

    Raises:
        DeployError: a service is unknown, or Compose does not work.
    """
    try:
        known = {file: engine.services(file, env_file) for file in (engine.STATE, engine.WORK)}
    except OSError as error:
        raise DeployError(f"{error}; see make doctor", UNAVAILABLE) from None
    with ExitStack() as stack:
        processes = []
        for command in commands(wanted, known, env_file):
            process = stack.enter_context(subprocess.Popen(command))  # noqa: S603  # compose, with arguments of ours
            stack.callback(process.terminate)
            processes.append(process)
        try:
            return max(process.wait() for process in processes)
        except KeyboardInterrupt:
            return 0
