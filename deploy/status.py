"""A table of the stack's services: state, since when, address. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import engine
from deploy.errors import DeployError


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    service: str
    state: str
    since: str
    address: str
    well: bool


def row(service: str, container: dict[str, Any] | None) -> Row:
    """Judge one service by what Compose says about its container; None when it has none."""
    if container is None:
        return Row(service, "not started", "", "", True)
    state, health = str(container["State"]), str(container["Health"])
    if state == "exited" and container["ExitCode"] == 0:
        return Row(service, "done", "", "", True)
    ports = [port["PublishedPort"] for port in container.get("Publishers") or [] if port["PublishedPort"]]
    address = f"http://127.0.0.1:{ports[0]}" if ports else ""
    shown = health or (f"exited ({container['ExitCode']})" if state == "exited" else state)
    return Row(service, shown, str(container["RunningFor"]), address, shown in ("healthy", "running"))


def rows(file: str, env_file: Path) -> list[Row]:
    """Return one row per service of a compose file, sorted by name.

    Raises:
        OSError: Compose does not work.
    """
    listed = engine.output(engine.compose(file, "ps", "--all", "--format", "json", env_file=env_file))
    found = {container["Service"]: container for container in map(json.loads, listed.splitlines())}
    return [row(service, found.get(service)) for service in sorted(engine.services(file, env_file))]


def table(lines: list[Row]) -> str:
    """Lay the rows out in columns, each as wide as its longest entry."""
    cells = [("SERVICE", "STATE", "STARTED", "ADDRESS")] + [(r.service, r.state, r.since, r.address) for r in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def show(env_file: Path) -> int:
    """Print the table; return 1 when a service that was started is not well, else 0.

    Raises:
        DeployError: Compose does not work.
    """
    try:
        lines = [line for file in (engine.STATE, engine.WORK) for line in rows(file, env_file)]
    except OSError as error:
        raise DeployError(f"{error}; see make doctor") from None
    print(table(lines))
    return 0 if all(line.well for line in lines) else 1
