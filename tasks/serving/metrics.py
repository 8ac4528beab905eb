"""Metrics for Prometheus about the model in service. BentoML itself counts requests and measures their latency.

All names begin with `serving_`: NAMESPACE is also the prefix of BentoML's metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from tasks.serving.model import ServedModel

NAMESPACE = "serving"
# Seconds. Dense around 0.05, the promised latency: a quantile is interpolated between two bounds.
BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


PASS_BUCKETS = (1, 2, 4, 8, 16, 32)


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

    def expect(self, model: ServedModel) -> None:
        """Export every class of a new model with count 0: a rate needs two samples."""
        for name in model.classes:
            self._images.labels(_version(model), name)

    def add(self, model: ServedModel, classes: Iterable[str]) -> None:
        """Count one request's answers."""
        for name in classes:
            self._images.labels(_version(model), name).inc()


def describe(model: ServedModel | None, problem: str | None) -> str:
    """Return which model is in service and whether there is a problem with a newer one, in Prometheus' format.

    Created from the model at every scrape, so that nothing of a replaced model remains.
    """
    registry = CollectorRegistry()
    registry.register(_Description(model, problem))
    return generate_latest(registry).decode()


class _Description(Collector):
    def __init__(self, model: ServedModel | None, problem: str | None) -> None:
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


def _version(model: ServedModel) -> str:
    """Version of the registered model; empty when it is not registered."""
    return "" if model.target.version is None else str(model.target.version)
