"""Checks whether a component of Airflow is healthy: `python healthy.py metadatabase|scheduler|dag_processor|triggerer`.

Asks the api-server, which knows every component's heartbeat; `airflow jobs check` would import all of Airflow each
time. While the api-server is down every component counts as unhealthy, because none can work then. A heartbeat from
before this container's start does not count: a component that was killed is healthy once it is back, not before.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path

URL = "http://airflow-api-server:8080/api/v2/monitor/health"


def started() -> float:
    """When this container started, in seconds since the epoch: the start of its first process."""
    ticks = float(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])  # since the host's start
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def problem(part: str, health: dict[str, dict[str, str | None]], since: float) -> str | None:
    """Why a component is not healthy, from the api-server's answer; None when it is.

    Args:
        part: the component's name in the answer.
        health: the answer.
        since: a heartbeat before this, in seconds since the epoch, does not count.
    """
    state = health[part]
    if state["status"] != "healthy":
        return f"{part}: {state['status']}"
    heartbeat = state.get(f"latest_{part}_heartbeat")
    if heartbeat is not None and datetime.fromisoformat(heartbeat).timestamp() < since:
        return f"{part}: no heartbeat since its container started"
    return None


def main() -> None:
    """Exit with 0 when the component is healthy, else with 1 and the reason."""
    with urllib.request.urlopen(URL, timeout=4) as answer:
        found = problem(sys.argv[1], json.load(answer), started())
    if found:
        sys.exit(found)


if __name__ == "__main__":
    main()
