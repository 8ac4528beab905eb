"""For all tests: which of them a session runs, and no store but a test's own.

Tests marked `long` run only where TEST_LONG=1 asks for them, as `make test-long` does.
"""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from tasks import GC_THRESHOLDS

gc.set_threshold(*GC_THRESHOLDS)  # a test process imports more than any command
LONG = os.environ.get("TEST_LONG") == "1"
# `make test` gets it from deploy/env.sh, and it goes before a PIPELINE_HOME that a test sets.
os.environ.pop("MLFLOW_TRACKING_URI", None)
# By default Ray's trials have a lower priority than the tests that run beside them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # its own spelling


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests marked `long`, or those that are not."""
    others = [item for item in items if (item.get_closest_marker("long") is not None) != LONG]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def pytest_collection_finish() -> None:
    """Spare each later collection of garbage the modules, of which there are hundreds of megabytes by now."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Put what SlipCover measured where `tests/all.sh` reads it; SlipCover leaves it in a temporary folder."""
    measured = os.environ.get("SLIPCOVER_COVERAGE_DIR")
    if measured and "PYTEST_XDIST_WORKER" not in os.environ:
        merged = Path(measured, "merged.json")
        if merged.exists():  # without it, a session that failed early still says why
            shutil.copy(merged, ".coverage.json")
        shutil.rmtree(measured)
