"""Become `airflow ARGUMENTS...` with the executor that fits the stack's profiles.

The one word `celery` in COMPOSE_PROFILES starts the workers (compose reads it) and makes the scheduler send them its
tasks (this program reads it), so that neither can be without the other.
"""

from __future__ import annotations

import os
import sys


def executor(profiles: str) -> str:
    """Name the executor for the value of COMPOSE_PROFILES, names separated by commas; `*` is all of them."""
    names = {name.strip() for name in profiles.split(",")}
    return "CeleryExecutor" if names & {"celery", "*"} else "LocalExecutor"


def main(arguments: list[str]) -> None:
    """Replace this process by Airflow's; ends it when a worker would wait for tasks that nobody sends."""
    chosen = executor(os.environ.get("COMPOSE_PROFILES", ""))
    if arguments[:1] == ["celery"] and chosen != "CeleryExecutor":
        sys.exit(
            "COMPOSE_PROFILES does not hold celery, so the scheduler sends nothing to workers; write it into .env "
            "(compose's --profile is not enough), then make up"
        )
    os.environ["AIRFLOW__CORE__EXECUTOR"] = chosen
    os.execvp("airflow", ["airflow", *arguments])  # noqa: S606, S607  # the image's own


if __name__ == "__main__":
    main(sys.argv[1:])
