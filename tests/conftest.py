"""Docker tests run where an engine answers; REQUIRE_DOCKER=1 (CI) makes a missing engine an error."""

from __future__ import annotations

import os
import subprocess

import pytest


def _engine_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave Docker tests out, by name in the summary, where there is no engine."""
    docker = [item for item in items if item.get_closest_marker("docker")]
    if not docker or _engine_answers():
        return
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.exit("REQUIRE_DOCKER=1, but no Docker Engine answers: start one, or unset it", returncode=3)
    config.hook.pytest_deselected(items=docker)
    items[:] = [item for item in items if item not in docker]
