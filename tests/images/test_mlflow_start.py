"""images/mlflow/start.py: what it decides before the server runs; the server itself is in tests/stack."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "images/mlflow/start.py"


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (4, 4), (64, 4)])
def test_the_server_has_a_worker_for_each_core_up_to_four(
    cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert runpy.run_path(str(PROGRAM))["workers"]() == workers
