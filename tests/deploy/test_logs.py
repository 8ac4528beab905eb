from __future__ import annotations

from pathlib import Path

import pytest

from deploy import engine
from deploy.errors import DeployError
from deploy.logs import commands

ENV = Path("/a/.env")
KNOWN = {engine.STATE: ["mlflow", "postgres"], engine.WORK: ["serving"]}


def follow(file: str, *rest: str) -> list[str]:
    return [*engine.compose(file, env_file=ENV), "logs", "--follow", "--tail", *rest]


def test_without_a_name_all_are_followed() -> None:
    assert commands([], KNOWN, ENV) == [follow(engine.STATE, "50"), follow(engine.WORK, "50")]


def test_services_are_followed_in_the_file_that_has_them() -> None:
    assert commands(["serving"], KNOWN, ENV) == [follow(engine.WORK, "200", "serving")]
    both = [follow(engine.STATE, "200", "mlflow"), follow(engine.WORK, "200", "serving")]
    assert commands(["serving", "mlflow"], KNOWN, ENV) == both


def test_an_unknown_service_is_named_with_those_there_are() -> None:
    with pytest.raises(DeployError, match="unknown service 'mlfow'; choose from mlflow, postgres, serving") as error:
        commands(["mlfow"], KNOWN, ENV)
    assert error.value.code == 64
