"""images/airflow/healthy.py: what counts as a sign of life."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from images.airflow.healthy import problem, started

NOW = 1_000_000.0


def health(status: str = "healthy", heartbeat: float | None = NOW) -> dict[str, dict[str, str | None]]:
    told = None if heartbeat is None else datetime.fromtimestamp(heartbeat, UTC).isoformat()
    return {"scheduler": {"status": status, "latest_scheduler_heartbeat": told}, "metadatabase": {"status": status}}


def test_a_heartbeat_of_this_life_counts() -> None:
    assert problem("scheduler", health(), since=NOW - 1) is None


def test_a_heartbeat_of_a_former_life_does_not() -> None:
    assert problem("scheduler", health(), since=NOW + 1) == "scheduler: no heartbeat since its container started"


def test_the_database_has_no_heartbeat() -> None:
    assert problem("metadatabase", health(), since=NOW + 1) is None


@pytest.mark.parametrize("part", ["scheduler", "metadatabase"])
def test_what_the_api_server_says_is_said(part: str) -> None:
    assert problem(part, health("unhealthy"), since=NOW - 1) == f"{part}: unhealthy"


def test_the_first_process_started_before_now_and_after_the_machine() -> None:
    assert 0 < started() <= time.time()
