"""Serves Prometheus on a port of its own: the counters of the server's workers, and whether the server answers.

MLflow's own /metrics is for administrators only, and a scraper should not be one. This port is not published; it
exposes counts and durations of requests, and no names.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

PORT = 9101
HEALTH = "http://127.0.0.1:5000/health"


class Answers(Collector):
    """`mlflow_up`, because this port may answer while the server does not."""

    def collect(self) -> Iterator[Metric]:
        """Ask the server once per scrape."""
        try:
            with urllib.request.urlopen(HEALTH, timeout=5) as answer:
                up = answer.status == 200
        except OSError:
            up = False
        yield GaugeMetricFamily("mlflow_up", "1 when the server answers.", value=float(up))


def main() -> None:
    """Serve until the container ends."""
    folder = Path(os.environ["MLFLOW_EXPOSE_PROMETHEUS"])
    folder.mkdir(parents=True, exist_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    registry.register(Answers())
    _, thread = start_http_server(PORT, registry=registry)
    thread.join()


if __name__ == "__main__":
    main()
