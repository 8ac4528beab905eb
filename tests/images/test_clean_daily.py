"""The service that cleans Airflow's database: it waits a day, or less after a failure, which its health shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from images.airflow import clean_daily

ROOT = Path(__file__).resolve().parents[2]


def test_after_a_failure_it_is_unhealthy_and_tries_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clean_daily, "FAILED", tmp_path / "failed")
    for code, wait in ((1, 600), (1, 600), (0, 86400)):
        monkeypatch.setattr(clean_daily, "COMMAND", [sys.executable, "-c", f"raise SystemExit({code})"])
        assert clean_daily.clean() == wait
        assert clean_daily.FAILED.exists() == bool(code)
    assert capsys.readouterr().out.count("was not cleaned (exit code 1); trying again in 10 minutes") == 2


def test_the_compose_file_asks_for_the_file_that_it_leaves() -> None:
    services = yaml.safe_load((ROOT / "docker-compose-mlops.yml").read_text())["services"]
    health = services["airflow-cleanup"]["healthcheck"]["test"]
    assert f'"{health[-1]}"' in (ROOT / "images/airflow/clean_daily.py").read_text()
