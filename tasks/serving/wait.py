"""Waits until the service reports a version, or clearly never will."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from tasks.errors import UnavailableError
from tasks.serving.client import ServiceClient
from tasks.serving.launch import Launcher
from tasks.serving.model_reference import CHAMPION

log = logging.getLogger("tasks.deploy")

POLL_SECONDS = 0.5
LOG_SECONDS = 5.0


def wait_for_version(
    client: ServiceClient,
    launcher: Launcher,
    registered_model: str,
    version: int,
    run_id: str | None,
    deadline: float,
    *,
    still_wanted: Callable[[], None],
) -> dict[str, Any]:
    """Return what the service says about itself once it serves the version.

    Args:
        client: of the service.
        launcher: starts or replaces the service where that is allowed.
        registered_model: name of the model that it should serve.
        version: the one it should serve.
        run_id: MLflow run of that version; tells it apart from the same number in another MLflow.
        deadline: `time.monotonic()` at which waiting ends.
        still_wanted: raises when waiting is no longer needed; called before each log line.

    Raises:
        ModelError: the service serves another model, and we may not restart it.
        UnavailableError: it does not serve the version in time.
    """
    spoken = time.monotonic()
    while True:
        info = client.info()
        if info is None:
            launcher.ensure()
            state = "does not answer"
        elif why := _hopeless(info, registered_model, version, run_id):
            launcher.replace(why)
            state = "is being restarted"
        elif info["model_version"] == version:
            return info
        else:
            state = f"serves {_version(info)}"
            state += f" ({info['problem']})" if info["problem"] else ""
        now = time.monotonic()
        if now >= deadline:
            still_wanted()
            raise UnavailableError(
                f"the service at {client.url} {state}, not with {registered_model} version {version}; "
                "start it, see its log, or raise deploy_timeout"
            )
        if now - spoken >= LOG_SECONDS:
            spoken = now
            still_wanted()
            log.info("waiting, %.0f s left: the service %s", deadline - now, state)
        time.sleep(POLL_SECONDS)


def _hopeless(info: dict[str, Any], registered_model: str, version: int, run_id: str | None) -> str | None:
    """Say why this service will never serve the version by itself; None if it may."""
    if info["registered_model"] != registered_model:
        return f"serves registered model {info['registered_model']!r}, not {registered_model!r}"
    if info["model_version"] == version:
        if run_id and info["run_id"] != run_id:
            return f"serves a version {version} of another MLflow (run {info['run_id']}, not {run_id})"
        return None
    if info["follows"] != CHAMPION:
        return f"serves {info['reference']!r} and does not follow {CHAMPION!r}"
    return None


def _version(info: dict[str, Any]) -> str:
    return "no model yet" if info["model_version"] is None else f"version {info['model_version']}"
