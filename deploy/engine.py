"""The Docker engine and Compose of this machine, by their command line; standard library only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.env_file import ENV_FILE, ROOT

STATE, WORK = "docker-compose.yml", "docker-compose-mlops.yml"  # started in this order, stopped in the other
NETWORK = "vision-mlops"
ID = "{{.ID}}"
PROJECT = '{{.Label "com.docker.compose.project"}}'
SERVICE = '{{.Label "com.docker.compose.service"}}'


def compose(file: str, *arguments: str, env_file: Path = ENV_FILE) -> list[str]:
    """Return the `docker compose` command for one of the stack's files."""
    return ["docker", "compose", "--file", str(ROOT / file), "--env-file", str(env_file), *arguments]


def services(file: str, env_file: Path = ENV_FILE) -> list[str]:
    """Return the services of a compose file that are enabled.

    Raises:
        OSError: Compose is not installed, or the file cannot be read with this `.env`.
    """
    return output(compose(file, "config", "--services", env_file=env_file)).split()


def stack_name(values: Mapping[str, str]) -> str:
    """Return the Compose project of the shared state."""
    return values.get("STACK_NAME") or "vision-mlops"


def projects(values: Mapping[str, str]) -> tuple[str, str]:
    """Return the Compose projects of the shared state and of what works on it."""
    return stack_name(values), f"{stack_name(values)}-work"


def containers(project: str, template: str) -> list[str]:
    """Return what a template of `docker inspect` makes of each container of a project that runs.

    Raises:
        OSError: no engine answers.
    """
    found = output(["docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={project}"]).split()
    return output(["docker", "inspect", "--format", template, *found]).splitlines() if found else []


def ports_of_the_stack(values: Mapping[str, str]) -> set[int]:
    """Return the ports that the stack's containers publish, also of those that wait to be restarted.

    Raises:
        OSError: no engine answers.
    """
    rows = output(["docker", "ps", "--format", f"{ID} {PROJECT}"]).splitlines()
    ours = [row.split(" ")[0] for row in rows if row.split(" ")[1:] in [[project] for project in projects(values)]]
    # `docker ps` lists no ports between two restarts, and a container may bind its port again a moment later.
    bindings = "{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}} {{end}}{{end}}"
    command = ["docker", "inspect", "--format", bindings, *ours]  # fails for a container that is just gone, or for none
    shown = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    return {int(port) for port in shown.stdout.split()}


def images_here() -> set[str]:
    """Return every image of the engine, as NAME:TAG and, if it came from a registry, as NAME@DIGEST."""
    shown = "{{.Repository}}:{{.Tag}} {{.Repository}}@{{.Digest}}"
    return set(output(["docker", "images", "--digests", "--format", shown]).split())


def services_running(values: Mapping[str, str]) -> set[str]:
    """Return the services of docker-compose-mlops.yml that run; none when it is not up."""
    project = f"label=com.docker.compose.project={projects(values)[1]}"
    return set(output(["docker", "ps", "--filter", project, "--format", SERVICE]).split())


def output(command: Sequence[str]) -> str:
    """Run a command and return what it printed.

    Raises:
        OSError: it is not installed or failed; the text is the last line it wrote.
    """
    if shutil.which(command[0]) is None:
        raise OSError(f"no command {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603  # commands of ours
    if done.returncode != 0:
        raise OSError((done.stderr.strip().splitlines() or [f"{' '.join(command)} failed"])[-1])
    return done.stdout.strip()
