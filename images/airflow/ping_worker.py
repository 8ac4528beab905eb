"""Checks whether this container's Celery worker accepts tasks: asks it through Redis, as the scheduler would.

`celery inspect ping` does the same, but imports all of Airflow each time.
"""

from __future__ import annotations

import os
import socket
import sys

from celery import Celery


def main() -> None:
    """Exit with 0 when the worker answers, else with 1 and the reason."""
    name = f"celery@{socket.gethostname()}"
    with Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"], set_as_current=False) as queue:
        if not queue.control.ping(destination=[name], timeout=5):
            sys.exit(f"{name} does not answer")


if __name__ == "__main__":
    main()
