"""A runtime is a folder with an operator and a name in `Runtime`; nothing else lists runtimes."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from pipeline.operator.stage_operator import StageOperator
from pipeline.runtimes import operator_of
from tasks.settings import Runtime


@pytest.mark.parametrize("runtime", Runtime)
def test_every_runtime_has_an_operator(runtime: Runtime) -> None:
    operator = operator_of(runtime)
    assert issubclass(operator, StageOperator)
    assert not operator.__abstractmethods__


def test_a_new_runtime_needs_its_folder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pipeline.batch.operator")
    module.__dict__["BatchStageOperator"] = StageOperator
    monkeypatch.setitem(sys.modules, "pipeline.batch", ModuleType("pipeline.batch"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert operator_of("batch") is StageOperator
