"""The checks of `tests.upgrade.state` on a stack of its own: its volumes filled by one release, kept by the next.

Needs an engine. Each release builds its own images and starts its own compose files, as `make up S=serving` does; the
`.env` of the first is that of the second, which may add to it. Everything is removed again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from deploy.env_file import parse

from .checkout import Checkout
from .state import Check, Home, checks

STACK = "vm-test-upgrade"
TAG = "upgrade"
IMAGES = "mlflow prepare train evaluate register deploy serving"


def check_volumes(before: Checkout, today: Checkout, work: Path) -> Iterator[Check]:
    """Fill a stack's volumes by one release, stop it, start the other on them, and check."""
    first_port = int(os.environ.get("TEST_STACK_PORT", "21610"))
    ports = {name: str(first_port + n) for n, name in enumerate(("MLFLOW_PORT", "S3_PORT", "SERVING_PORT"))}
    own = {"STACK_NAME": STACK, "PIPELINE_DOCKER_NETWORK": STACK, "PIPELINE_IMAGE_TAG": TAG} | ports
    env_file = before.root / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in own.items()))
    before.make("setup", variables={})
    values = parse(env_file.read_text())
    os.environ |= {name: values[name] for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    url = f"http://127.0.0.1:{ports['SERVING_PORT']}"
    variables = {"PIPELINE_HOME": str(work / "stack-home")}
    home = Home("docker", variables, url, f"http://127.0.0.1:{ports['MLFLOW_PORT']}")
    try:
        before.make("clean", "RUNTIME=docker", variables={})  # what a call that was killed left
        _up(before)
        first_day = home.run_daily(before, {})
        before.make("down", variables={})
        (today.root / ".env").write_text(env_file.read_text())
        today.make("setup", variables={})
        _up(today)
        yield from checks(home, before, today, first_day)
    finally:
        last = today if (today.root / ".env").exists() else before
        last.make("clean", "RUNTIME=docker", variables={})
        listed = f"docker image ls --filter 'reference=*/*:{TAG}' --format '{{{{.Repository}}}}:{{{{.Tag}}}}'"
        last.shell(f"{listed} | xargs --no-run-if-empty docker image rm", runtime="docker", variables={})


def _up(checkout: Checkout) -> None:
    checkout.make("images", f"S={IMAGES}", variables={})
    checkout.make("up", "S=serving", variables={})
