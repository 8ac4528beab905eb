"""Stages that nobody removed, wherever they ran: listed, and removed when asked; part of `make gc`.

A stage's container or pod is removed when its task ends, and by the task's next try. One that is left was started by a
scheduler that died, for a task that was not tried again. Standard library only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DAYS = 7.0
UNAVAILABLE = 69  # sysexits.h


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
    """Where stages run, and how to look there."""

    kind: str
    """What a stage is there, as `containers`."""
    name: str
    """Of the place, as `network vision-mlops`."""
    stages: Callable[[], list[Leftover]]
    """Lists all of them; OSError with one line where nothing answers."""
    remove: Callable[[Leftover], None]
    """Stops and removes one."""


def tell(place: Place, days: float, *, apply: bool) -> None:
    """Print a line for each that was made more than `days` ago; with `apply` remove it.

    Raises:
        OSError: nothing answers.
    """
    before = datetime.now(UTC) - timedelta(days=days)
    found = sorted((one for one in place.stages() if one.created < before), key=lambda one: one.created)
    for one in found:
        print(f"{one.name}  {one.state} since {one.created:%Y-%m-%d %H:%M} UTC  {one.key}")
        if apply:
            place.remove(one)
    verb = "removed" if apply else "would be removed (APPLY=1 removes them)"
    told = f"{len(found)} {verb}" if found else f"none is left over {place.name}"
    print(f"{place.kind}: {told}")


def main(program: str, place: Place, arguments: Sequence[str]) -> int:
    """List or remove; 0, or 69 where nothing answers."""
    parser = argparse.ArgumentParser(prog=program, description=f"Stages' {place.kind} that nobody removed.")
    parser.add_argument("--days", type=float, default=DAYS, help="since they were made (%(default)g)")
    parser.add_argument("--apply", action="store_true", help="remove them; otherwise they are only listed")
    given = parser.parse_args(arguments)
    if given.days < 0:
        parser.error(f"--days={given.days:g}: give 0 or more")
    try:
        tell(place, given.days, apply=given.apply)
    except OSError as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    return 0
