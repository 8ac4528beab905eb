"""What the Docker engine of this machine tells of the stack, by its command line; standard library only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

ID = "{{.ID}}"
PROJECT = '{{.Label "com.docker.compose.project"}}'
SERVICE = '{{.Label "com.docker.compose.service"}}'


def stack_name(values: Mapping[str, str]) -> str:
    """Compose project of the shared state."""
    return values.get("STACK_NAME") or "vision-mlops"


def ports_of_the_stack(values: Mapping[str, str]) -> set[int]:
    """Ports that the stack's containers publish: of those that run, and of those that wait for their next try.

    Raises:
        OSError: no engine answers.
    """
    stack = stack_name(values)
    rows = output(["docker", "ps", "--format", f"{ID} {PROJECT}"]).splitlines()
    ours = [row.split(" ")[0] for row in rows if row.split(" ")[1:] in ([stack], [f"{stack}-work"])]
    # What `docker ps` calls ports is empty between two tries, and a port may be taken again a moment later.
    bindings = "{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}} {{end}}{{end}}"
    command = ["docker", "inspect", "--format", bindings, *ours]  # fails for one that has gone just now, or for none
    shown = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    return {int(port) for port in shown.stdout.split()}


def images_here() -> set[str]:
    """Every image of the engine, as NAME:TAG."""
    return set(output(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]).split())


def services_running(values: Mapping[str, str]) -> set[str]:
    """Services of docker-compose-mlops.yml that run; none when it is not up."""
    project = f"label=com.docker.compose.project={stack_name(values)}-work"
    return set(output(["docker", "ps", "--filter", project, "--format", SERVICE]).split())


def output(command: Sequence[str]) -> str:
    """Run a command and return what it printed.

    Raises:
        OSError: it is not installed or failed; carries its own last line.
    """
    if shutil.which(command[0]) is None:
        raise OSError(f"no command {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603  # commands of ours
    if done.returncode != 0:
        raise OSError((done.stderr.strip().splitlines() or [f"{' '.join(command)} failed"])[-1])
    return done.stdout.strip()
