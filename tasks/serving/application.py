"""Puts the service together: what handles a request in a worker and in the control process, from the outside in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from tasks.serving.access import ApiKeyMiddleware, open_to_pages
from tasks.serving.forwarding import Forwarding
from tasks.serving.http_errors import HttpErrorMiddleware
from tasks.serving.metrics import RequestMetrics
from tasks.serving.pages import Pages
from tasks.serving.predictions import Predictions
from tasks.serving.predictor import Predictor
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.serving.control import Control


def worker_application(settings: Settings, predictor: Predictor, control: str) -> ASGIApp:
    """Return a worker's application.

    Args:
        settings: of the service.
        predictor: answers the predictions.
        control: path of the control process's socket; everything else is asked there.
    """
    app: ASGIApp = Predictions(Forwarding(control), predictor, settings.serving_max_upload_mb * 2**20)
    app = ApiKeyMiddleware(app)
    app = HttpErrorMiddleware(app)
    app = Pages(app)
    app = RequestMetrics(app)
    return open_to_pages(app, settings.allowed_origins)


def control_application(control: Control) -> ASGIApp:
    """Return the control process's application; it starts to fetch its model when the server starts it."""
    # Imported here: a worker has no BentoML in memory.
    from tasks.serving.known_methods import KnownMethods
    from tasks.serving.metrics import Metrics
    from tasks.serving.predictions import WithoutModel
    from tasks.serving.service import VisionClassifier, service

    VisionClassifier.control = control
    # Without BentoML's own supervisor and workers: they would import all of BentoML and MLflow once more each.
    app: ASGIApp = KnownMethods(service.to_asgi(is_main=True))
    app = WithoutModel(app, control)
    app = Metrics(app, control.follower, control.workers.metrics)
    return HttpErrorMiddleware(app)
