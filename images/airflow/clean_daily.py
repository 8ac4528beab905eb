"""Cleans Airflow's database now, then once a day: the service `airflow-cleanup` of Compose.

Each cleaning is a process of its own, so that nothing of Airflow stays in memory between them. After one that failed,
the file FAILED makes the container unhealthy, until one succeeds. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "pipeline", "clean-database"]
FAILED = Path("/tmp/cleaning-failed")  # noqa: S108  # the container's own; the compose file names it too
DAY, SOON = 24 * 3600.0, 600.0  # seconds to the next one, after success and after failure


def clean() -> float:
    """Clean once; return the seconds until the next time."""
    done = subprocess.run(COMMAND)  # noqa: S603  # ours
    if done.returncode == 0:
        FAILED.unlink(missing_ok=True)
        return DAY
    FAILED.touch()
    print(f"Airflow's database was not cleaned (exit code {done.returncode}); trying again in 10 minutes", flush=True)
    return SOON


if __name__ == "__main__":
    while True:
        time.sleep(clean())
