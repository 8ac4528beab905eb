from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.command.unfinished import claim
from tasks.errors import RequestError
from tasks.settings import Settings

CONF = {"epochs": 3, "dataset": "digits"}
# Takes a run and is killed with it.
KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.command.unfinished import claim
from tasks.settings import Settings
with claim("d", {"dataset": "digits", "epochs": 3}, Settings(pipeline_home=Path(sys.argv[1]))) as taken:
    print(taken.date.isoformat(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(pipeline_home=tmp_path)


def test_a_killed_run_is_gone_on_with_by_the_same_configuration_only(settings: Settings) -> None:
    command = [sys.executable, "-c", KILLED, str(settings.pipeline_home)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert killed.returncode == -9, killed.stderr
    for other in ({"epochs": 4, "dataset": "digits"}, {}):
        with claim("d", other, settings) as taken:
            assert not taken.resumed
    with claim("e", CONF, settings) as taken:
        assert not taken.resumed
    with claim("d", CONF, settings) as taken:
        assert (taken.resumed, taken.date.isoformat()) == (True, killed.stdout.strip())


def test_a_run_that_ended_is_not_gone_on_with(settings: Settings) -> None:
    with claim("d", CONF, settings) as taken:
        taken.ended = True
    assert list((settings.pipeline_home / "unfinished").iterdir()) == []
    with claim("d", CONF, settings) as again:
        assert (again.resumed, again.date > taken.date) == (False, True)


def test_anew_forgets_what_did_not_end(settings: Settings) -> None:
    with claim("d", CONF, settings) as first:
        pass
    with claim("d", CONF, settings, anew=True) as second:
        assert (second.resumed, second.date > first.date) == (False, True)
    with claim("d", CONF, settings) as third:
        assert (third.resumed, third.date) == (True, second.date)


def test_a_run_on_another_server_is_another_run(settings: Settings) -> None:
    with claim("d", CONF, settings):
        pass
    elsewhere = settings.model_copy(update={"mlflow_tracking_uri": "http://mlflow.example.org"})
    with claim("d", CONF, elsewhere) as taken:
        assert not taken.resumed


def test_a_run_that_goes_on_is_nobody_elses(settings: Settings) -> None:
    with claim("d", CONF, settings):
        with pytest.raises(RequestError, match="d with this configuration is already running on this machine; wait"):
            claim("d", CONF, settings).__enter__()
        with claim("d", {}, settings) as other:
            assert not other.resumed
