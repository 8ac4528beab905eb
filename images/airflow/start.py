"""Starts `airflow ARGUMENTS...` with the executor and the metrics that the stack's profiles select.

`celery` in COMPOSE_PROFILES starts the workers (Compose reads it) and makes the scheduler send them its tasks (this
program reads it), so that neither runs without the other. In the same way `monitoring` starts the programs that receive
Airflow's metrics, and makes Airflow send them.

A complete command (`airflow ...`, `bash ...`, `python ...`) is run unchanged, as the official image's entry point does:
the official Helm chart requires that, and its executor comes from the chart's own settings.
"""

from __future__ import annotations

import os
import sys

COMMANDS = ("airflow", "bash", "python")


def has(profile: str, profiles: str) -> bool:
    """Whether a profile is in the value of COMPOSE_PROFILES, names separated by commas; `*` is all of them."""
    return bool({name.strip() for name in profiles.split(",")} & {profile, "*"})


def main(arguments: list[str]) -> None:
    """Replace this process with Airflow; exit when a worker would wait for tasks that are never sent."""
    if arguments and arguments[0] in COMMANDS:
        os.execvp(arguments[0], arguments)  # noqa: S606  # the image's own
    profiles = os.environ.get("COMPOSE_PROFILES", "")
    if arguments[:1] == ["celery"] and not has("celery", profiles):
        sys.exit(
            "COMPOSE_PROFILES does not include celery, so the scheduler sends no tasks to workers; add it in .env "
            "(Compose's --profile is not enough), then run make up"
        )
    os.environ["AIRFLOW__CORE__EXECUTOR"] = "CeleryExecutor" if has("celery", profiles) else "LocalExecutor"
    os.environ["AIRFLOW__METRICS__OTEL_ON"] = str(has("monitoring", profiles))
    os.execvp("airflow", ["airflow", *arguments])  # noqa: S606, S607  # the image's own


if __name__ == "__main__":
    main(sys.argv[1:])
