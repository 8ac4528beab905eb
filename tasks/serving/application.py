"""Puts the service together: what handles a request, from the outside in."""

from __future__ import annotations

from starlette.types import ASGIApp

from tasks.serving.access import ApiKeyMiddleware, open_to_pages
from tasks.serving.http_errors import HttpErrorMiddleware, KnownPaths
from tasks.serving.metrics import RequestMetrics
from tasks.serving.pages import Pages
from tasks.serving.predictions import Predictions
from tasks.serving.predictor import Predictor
from tasks.serving.service import VisionClassifier, service
from tasks.settings import Settings


def application(settings: Settings) -> ASGIApp:
    """Return the ASGI application; it starts to fetch its model when the server starts it."""
    predictor = VisionClassifier.predictor = Predictor(settings)
    # One process, without BentoML's supervisor: that would import all of BentoML a second time before the model can
    # load, and leave several processes to find and end. More capacity comes from more containers.
    app: ASGIApp = KnownPaths(service.to_asgi(is_main=True))
    app = Predictions(app, predictor)
    app = ApiKeyMiddleware(app)
    app = HttpErrorMiddleware(app)
    app = Pages(app)
    app = RequestMetrics(app, predictor.follower)
    return open_to_pages(app, settings.allowed_origins)
