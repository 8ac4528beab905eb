"""The table of `make status`, from what compose says of a container."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.status import Row, row, table


def container(**changes: Any) -> dict[str, Any]:
    return {"State": "running", "Health": "healthy", "ExitCode": 0, "RunningFor": "2 minutes ago"} | changes


@pytest.mark.parametrize(
    ("said", "state", "well"),
    [
        (container(), "healthy", True),
        (container(Health="unhealthy"), "unhealthy", False),
        (container(Health="starting"), "starting", False),
        (container(Health=""), "running", True),
        (container(State="exited", Health=""), "done", True),
        (container(State="exited", Health="", ExitCode=78), "exited (78)", False),
        (container(State="restarting", Health=""), "restarting", False),
        (None, "not started", True),
    ],
)
def test_a_service_is_judged_by_its_container(said: dict[str, Any] | None, state: str, well: bool) -> None:
    judged = row("mlflow", said)
    assert (judged.state, judged.well) == (state, well)


def test_the_address_is_the_published_port() -> None:
    ports = [{"PublishedPort": 0}, {"PublishedPort": 21600}]
    assert row("mlflow", container(Publishers=ports)).address == "http://127.0.0.1:21600"
    assert row("postgres", container(Publishers=[{"PublishedPort": 0}])).address == ""


def test_columns_are_as_wide_as_their_longest_entry() -> None:
    lines = table([Row("s3", "healthy", "", "http://127.0.0.1:9000", True), Row("airflow-init", "done", "", "", True)])
    assert lines.splitlines() == [
        "SERVICE       STATE    STARTED  ADDRESS",
        "s3            healthy           http://127.0.0.1:9000",
        "airflow-init  done",
    ]
