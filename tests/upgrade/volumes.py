"""The checks of `tests.upgrade.state` on a stack of its own: its volumes filled by one release, kept by the next.

Needs an engine. Each release builds its own images and starts its own compose files, as `make up S=serving` does; the
`.env` of the first is that of the second, which may add to it. Everything is removed again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from deploy.setup_env import parse

from .checkout import Checkout
from .state import Check, Home, checks

STACK = "vm-test-upgrade"
FILES = ("docker-compose-mlops.yml", "docker-compose.yml")


def check_volumes(before: Checkout, today: Checkout, work: Path) -> Iterator[Check]:
    """Fill a stack's volumes by one release, stop it, start the other on them, and check."""
    first_port = int(os.environ.get("TEST_STACK_PORT", "21610"))
    ports = {name: str(first_port + n) for n, name in enumerate(("MLFLOW_PORT", "S3_PORT", "SERVING_PORT"))}
    own = {"STACK_NAME": STACK, "PIPELINE_DOCKER_NETWORK": STACK, "PIPELINE_IMAGE_TAG": "upgrade"} | ports
    env_file = before.root / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in own.items()))
    before.make("setup", variables={})
    values = parse(env_file.read_text())
    os.environ |= {name: values[name] for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    url = f"http://127.0.0.1:{ports['SERVING_PORT']}"
    variables = {"PIPELINE_HOME": str(work / "stack-home")}
    home = Home("docker", variables, url, f"http://127.0.0.1:{ports['MLFLOW_PORT']}")
    try:
        _up(before)
        first_day = home.run_daily(before, {})
        _down(before)
        (today.root / ".env").write_text(env_file.read_text())
        today.make("setup", variables={})
        _up(today)
        yield from checks(home, before, today, first_day)
    finally:
        _down(today if (today.root / ".env").exists() else before, "--volumes", "--remove-orphans")


def _up(checkout: Checkout) -> None:
    checkout.make("images", variables={})
    checkout.make("up", "S=serving", variables={})


def _down(checkout: Checkout, *options: str) -> None:
    for file in FILES:
        line = f"docker compose --file {file} --profile '*' down --timeout 10 {' '.join(options)}"
        checkout.shell(line, runtime="docker", variables={})
