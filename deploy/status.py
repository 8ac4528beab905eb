"""Print a table of the stack's services: health, since when, address.

    python deploy/status.py

Exit code 1 when a service that was started is not well.
Standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILES = ("docker-compose.yml", "docker-compose-mlops.yml")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    service: str
    state: str
    since: str
    address: str
    well: bool


def compose(file: str, *arguments: str) -> str:
    """Run `docker compose` and return what it printed; its own words and exit code when it fails."""
    command = ["docker", "compose", "--file", str(ROOT / file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["docker compose failed without a word"]
        print(lines[-1], file=sys.stderr)
        sys.exit(done.returncode)
    return done.stdout


def row(service: str, container: dict[str, Any] | None) -> Row:
    """Judge one service by what compose says of its container; None when it has none."""
    if container is None:
        return Row(service, "not started", "", "", True)
    state, health = str(container["State"]), str(container["Health"])
    if state == "exited" and container["ExitCode"] == 0:
        return Row(service, "done", "", "", True)
    ports = [port["PublishedPort"] for port in container.get("Publishers") or [] if port["PublishedPort"]]
    address = f"http://127.0.0.1:{ports[0]}" if ports else ""
    shown = health or (f"exited ({container['ExitCode']})" if state == "exited" else state)
    return Row(service, shown, str(container["RunningFor"]), address, shown in ("healthy", "running"))


def rows(file: str) -> list[Row]:
    """One row per service of a compose file, in the file's order of names."""
    found = {c["Service"]: c for c in map(json.loads, compose(file, "ps", "--all", "--format", "json").splitlines())}
    return [row(service, found.get(service)) for service in sorted(compose(file, "config", "--services").split())]


def table(lines: list[Row]) -> str:
    """Lay the rows out in columns as wide as their longest entry."""
    cells = [("SERVICE", "STATE", "STARTED", "ADDRESS")] + [(r.service, r.state, r.since, r.address) for r in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def main() -> int:
    """Print the table."""
    lines = [line for file in FILES for line in rows(file)]
    print(table(lines))
    return 0 if all(line.well for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
