"""A prewarmed process: started early, it imports what takes seconds to import, then waits for its request."""

from __future__ import annotations

import sys

from tasks.errors import PipelineError
from tasks.settings import load_settings


def read_request() -> str:
    """Import what every stage needs to talk to MLflow, then read standard input to its end."""
    from tasks.records import tracking  # noqa: F401
    from tasks.reuse import earlier_results  # noqa: F401

    try:
        over_http = load_settings().tracking_uri.startswith("http")
    except PipelineError:
        over_http = True  # the stage will say what is wrong
    if not over_http:  # MLflow imports this when it first opens its database; it takes half as long as all of the above
        from mlflow.store.tracking import sqlalchemy_store  # noqa: F401
    return sys.stdin.read()
