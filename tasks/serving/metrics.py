"""Metrics for Prometheus about the requests and the model in service; all names begin with `serving_`."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.serving.model import ModelSpec

if TYPE_CHECKING:
    from tasks.serving.follower import Follower

NAMESPACE = "serving"
# Seconds. Dense around 0.05, the promised latency: a quantile is interpolated between two bounds.
BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


PASS_BUCKETS = (1, 2, 4, 8, 16, 32)
REGISTRY = CollectorRegistry()
# Counted; any other path would be a series of its own for whoever makes paths up.
COUNTED = frozenset({"/predict_image", "/predict_batch", "/get_model_info", "/refresh", "/health"})


class RequestMetrics:
    """ASGI application of a worker: counts and times the requests."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry = REGISTRY) -> None:
        """Wrap `app` and register the metrics; once per process and registry."""
        self.app = app
        labels = ["endpoint", "http_response_code"]
        name = f"{NAMESPACE}_request"
        total = Counter(f"{name}_total", "Requests answered.", labels, registry=registry)
        seconds = Histogram(
            f"{name}_duration_seconds", "From the head of a request to the end of its answer.", labels,
            buckets=BUCKETS, registry=registry,
        )  # fmt: skip
        progress = Gauge(
            f"{name}_in_progress", "Requests being received or answered.", ["endpoint"], registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        # Looking up the series of a label takes longer than counting.
        self._total = functools.cache(total.labels)
        self._seconds = functools.cache(seconds.labels)
        self._progress = {path: progress.labels(path) for path in COUNTED}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        progress = self._progress.get(path)
        if progress is None:
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = ""

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            elif not message.get("more_body", False):  # before the client has its answer, and asks another process
                self._total(path, status).inc()
                self._seconds(path, status).observe(time.perf_counter() - began)
            await send(message)

        progress.inc()
        try:
            await self.app(scope, receive, noted)
        finally:
            progress.dec()


class Metrics:
    """ASGI application of the control process: answers GET /metrics with the sums over all workers."""

    def __init__(self, app: ASGIApp, follower: Follower, folder: Path) -> None:
        """Wrap `app`; `folder` is where the workers' numbers are (PROMETHEUS_MULTIPROC_DIR)."""
        self.app = app
        self._follower = follower
        self._registry = CollectorRegistry()
        # Also counts what workers did that have died since.
        MultiProcessCollector(self._registry, str(folder))  # type: ignore[no-untyped-call]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] == "/metrics":
            await self._metrics(scope["method"])(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _metrics(self, method: str) -> Response:
        if method not in {"GET", "HEAD"}:
            text = f"{method} /metrics is not supported; send GET, HEAD"
            return JSONResponse({"error": text}, 405, {"Allow": "GET, HEAD"})
        about_model = describe(self._follower.current, self._follower.problem).encode()
        return Response(generate_latest(self._registry) + about_model, media_type=CONTENT_TYPE_LATEST)


class PredictionCounter:
    """Images classified, by class and model version, and images per forward pass."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Register the metrics; once per process and registry."""
        self._images = Counter(
            f"{NAMESPACE}_predictions", "Images classified.", ["model_version", "class"], registry=registry
        )

        self._passes = Histogram(
            f"{NAMESPACE}_pass_images", "Images per forward pass.", buckets=PASS_BUCKETS, registry=registry
        )

    def passed(self, images: int) -> None:
        """Count one forward pass."""
        self._passes.observe(images)

    def expect(self, model: ModelSpec) -> None:
        """Export every class of a new model with count 0: a rate needs two samples."""
        for name in model.classes:
            self._images.labels(_version(model), name)

    def add(self, model: ModelSpec, classes: Iterable[str]) -> None:
        """Count one request's answers."""
        for name in classes:
            self._images.labels(_version(model), name).inc()


def describe(model: ModelSpec | None, problem: str | None) -> str:
    """Return which model is in service and whether there is a problem with a newer one, in Prometheus' format.

    Created from the model at every scrape, so that nothing of a replaced model remains.
    """
    registry = CollectorRegistry()
    registry.register(_Description(model, problem))
    return generate_latest(registry).decode()


class _Description(Collector):
    def __init__(self, model: ModelSpec | None, problem: str | None) -> None:
        self._model = model
        self._problem = problem

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; those about the model only when one is loaded."""
        problem = "1 when the model that is followed cannot be looked up or loaded."
        yield GaugeMetricFamily(f"{NAMESPACE}_model_problem", problem, value=float(self._problem is not None))
        model = self._model
        if model is None:
            return
        loaded = "When the model in service was loaded, in seconds since 1970."
        yield GaugeMetricFamily(f"{NAMESPACE}_model_loaded_timestamp_seconds", loaded, value=model.loaded_at)
        labels = {
            "registered_model": model.target.registered_model or "",
            "model_version": _version(model),
            "run_id": model.target.run_id or "",
            "architecture": str(model.metadata.get("architecture", "")),
        }
        info = GaugeMetricFamily(f"{NAMESPACE}_model_info", "The model in service; always 1.", labels=list(labels))
        info.add_metric(list(labels.values()), 1.0)
        yield info


def _version(model: ModelSpec) -> str:
    """Version of the registered model; empty when it is not registered."""
    return "" if model.target.version is None else str(model.target.version)
