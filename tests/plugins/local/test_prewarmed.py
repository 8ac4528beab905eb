"""Prewarmed stages with real processes: a small script takes the place of `python -m tasks`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipeline.local.prewarmed import AHEAD, PrewarmedStages
from pipeline.local.process import StageProcess

KEYS = [f"d/r/{task}/-1" for task in ("prepare", "train", "evaluate", "register")]
ANSWER = "print(json.dumps(request)); answer()"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Started:
    """Every process that was started, by its key."""

    def __init__(self, command: tuple[str, ...], code: str) -> None:
        self.command = command
        self.code = code
        self.environment = dict(os.environ)  # pytest changes it from phase to phase
        self.processes: dict[str, StageProcess] = {}

    def variables(self, key: str) -> dict[str, str]:
        return {**self.environment, "STUB": self.code, "KEY": key}

    def start(self, key: str) -> StageProcess:
        self.processes[key] = StageProcess("register", self.command, self.variables(key), 0.5)
        return self.processes[key]

    @property
    def alive(self) -> list[str]:
        return [key for key, process in self.processes.items() if psutil.pid_exists(process.pid) and process.alive]


@pytest.fixture
def started(stub: tuple[str, ...]) -> Started:
    return Started(stub, ANSWER)


@pytest.fixture
def prewarmed(started: Started) -> Iterator[PrewarmedStages]:
    prewarmed = PrewarmedStages({key: partial(started.start, key) for key in KEYS})
    yield prewarmed
    prewarmed.close()
    assert started.alive == []


def test_the_next_ones_wait_and_each_answers_its_own_request(prewarmed: PrewarmedStages, started: Started) -> None:
    for turn, key in enumerate(KEYS):
        assert list(started.processes) == KEYS[: turn + AHEAD]
        process = prewarmed.take(key, started.variables(key))
        assert process is started.processes[key]
        lines: list[str] = []
        outcome = process.run(json.dumps({"turn": turn}), lines.append)
        process.close()
        assert (outcome.exit_code, lines) == (0, [json.dumps({"turn": turn})])
        assert json.loads(outcome.result or b"")["version"] == 3


def test_a_second_try_and_an_unknown_task_find_nothing(prewarmed: PrewarmedStages, started: Started) -> None:
    first = prewarmed.take(KEYS[0], started.variables(KEYS[0]))
    assert first is not None
    first.close()
    assert prewarmed.take(KEYS[0], started.variables(KEYS[0])) is None
    assert prewarmed.take("d/r/other/-1", {}) is None
    assert started.alive == KEYS[1:3]


def test_those_whose_turn_has_passed_are_ended(prewarmed: PrewarmedStages, started: Started) -> None:
    taken = prewarmed.take(KEYS[2], started.variables(KEYS[2]))
    assert taken is None  # it was not to be started yet
    assert started.alive == KEYS[3:]


def test_one_with_other_variables_is_ended(prewarmed: PrewarmedStages, started: Started) -> None:
    assert prewarmed.take(KEYS[0], started.variables(KEYS[0]) | {"PIPELINE_EXPERIMENT": "other"}) is None
    assert started.alive == KEYS[1:3]


def test_one_that_has_ended_meanwhile_is_not_given(prewarmed: PrewarmedStages, started: Started) -> None:
    supervisor = psutil.Process(started.processes[KEYS[0]].pid)
    for process in (*supervisor.children(), supervisor):
        process.kill()
    psutil.wait_procs([supervisor], timeout=600)
    assert prewarmed.take(KEYS[0], started.variables(KEYS[0])) is None


def test_a_stage_that_ends_without_reading_its_request_is_told_by_its_exit_code() -> None:
    process = StageProcess("register", ("/bin/sh", "-c", "exit 69"), os.environ, 0.5)
    while process.alive:
        pass
    outcome = process.run("{}", lambda line: None)
    process.close()
    assert (outcome.exit_code, outcome.result) == (69, None)


def test_what_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        StageProcess("register", ("true",), os.environ, 0.5)
    assert open_files() == before


def test_close_leaves_no_open_file_and_no_folder(stub: tuple[str, ...]) -> None:
    before = open_files()
    process = StageProcess("register", stub, {**os.environ, "STUB": ANSWER}, 0.5)
    folder = Path(process._folder.name)
    process.close()
    assert open_files() == before
    assert not folder.exists()
