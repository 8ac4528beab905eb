from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient

from tasks.__main__ import main
from tasks.records import ledger
from tasks.records.ledger import Kind
from tasks.settings import Settings
from tests.tasks.records.entries import NAME, entry, make_versions


@pytest.fixture(autouse=True)
def past(settings: Settings) -> None:
    """Two promotions."""
    make_versions(settings, 2)
    for number in (1, 2):
        ledger.move_champion(entry(Kind.PROMOTION, number, number - 1 or None, number))


def test_the_newest_come_first_and_older_ones_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history"]) == 0
    _, newest, first = capsys.readouterr().out.splitlines()
    assert newest.split()[2:7] == ["promotion", NAME, "1", "2", "2"]
    assert first.split()[2:7] == ["promotion", NAME, "-", "1", "1"]
    assert main(["history", "--limit", "1"]) == 0
    assert capsys.readouterr().out.endswith("1 older records are not shown; --limit 2 shows all\n")


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--json", "--registered-model", NAME]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["to_version"], one["finished"]) for one in said] == [(2, True), (1, True)]


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--limit", "1"]])
def test_a_ledger_that_was_changed_is_shown_and_said_to_be(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    first = list(ledger.history())[1].run_id
    MlflowClient().set_tag(first, "ledger.reason", "another")
    assert main(["history", *arguments]) == 65
    said = capsys.readouterr()
    assert NAME in said.out
    assert said.err.splitlines()[-1].startswith(
        f"ChangedError: the ledger is not as the pipeline wrote it: {NAME}: record {first} was changed after promotion "
    )


def test_an_empty_history_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--registered-model", "nothing"]) == 0
    assert capsys.readouterr().out.startswith("the history is empty")
