"""Tell whether a part of Airflow is healthy: `python healthy.py metadatabase|scheduler|dag_processor|triggerer`.

Asks the api-server, which knows everyone's heartbeat; `airflow jobs check` would import all of Airflow each time.
A part that is well is unhealthy too while the api-server is away, and cannot work then.
"""

from __future__ import annotations

import json
import sys
import urllib.request

URL = "http://airflow-api-server:8080/api/v2/monitor/health"


def main() -> None:
    """Exit 0 when the part is healthy, else 1 with what the api-server said."""
    part = sys.argv[1]
    with urllib.request.urlopen(URL, timeout=4) as answer:
        status = json.load(answer)[part]["status"]
    if status != "healthy":
        sys.exit(f"{part}: {status}")


if __name__ == "__main__":
    main()
