"""Stages left behind, wherever they ran: list them, and remove them if asked; part of `make gc`.

A stage's container or pod is removed when its task ends, and by the task's next try. What is left was started by a
scheduler that died, for a task that was not retried. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deploy.errors import USAGE, DeployError

DAYS = 7.0


@dataclass(frozen=True)
class Leftover:
    """A container or pod of a stage."""

    id: str
    name: str
    key: str
    """DAG, DAG run and task."""
    state: str
    created: datetime


@dataclass(frozen=True)
class Place:
    """Where stages run, and how to find and remove them there."""

    kind: str
    """What stages are there, such as `containers`."""
    name: str
    """Of the place, such as `on network vision-mlops`."""
    stages: Callable[[], list[Leftover]]
    """Lists all of them; raises DeployError when nothing answers."""
    remove: Callable[[Leftover], None]
    """Stops and removes one."""


def clean(place: Place, days: float, *, apply: bool) -> None:
    """Print a line for each stage created more than `days` ago; with `apply` also remove it.

    Raises:
        DeployError: `days` is negative, or nothing answers.
    """
    if days < 0:
        raise DeployError(f"--days={days:g} is negative; give 0 or more", USAGE)
    before = datetime.now(UTC) - timedelta(days=days)
    found = sorted((one for one in place.stages() if one.created < before), key=lambda one: one.created)
    for one in found:
        print(f"{one.name}  {one.state} since {one.created:%Y-%m-%d %H:%M} UTC  {one.key}")
        if apply:
            place.remove(one)
    verb = "removed" if apply else "would be removed (APPLY=1 removes them)"
    told = f"{len(found)} {verb}" if found else f"none is left over {place.name}"
    print(f"{place.kind}: {told}")
