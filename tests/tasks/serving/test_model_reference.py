from __future__ import annotations

import logging

import pytest

from tasks.errors import SettingsError
from tasks.serving.model_reference import Kind, Reference, parse

RUN = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Reference(Kind.ALIAS, "cats", "champion")),
        ("champion", Reference(Kind.ALIAS, "cats", "champion")),
        ("blue-green_2", Reference(Kind.ALIAS, "cats", "blue-green_2")),
        ("7", Reference(Kind.VERSION, "cats", "7")),
        (RUN, Reference(Kind.RUN, "cats", RUN)),
        (f"runs:/{RUN}/deep/model", Reference(Kind.RUN_PATH, "cats", RUN, "deep/model")),
        ("models:/dogs/7", Reference(Kind.VERSION, "dogs", "7")),
        ("models:/dogs@best", Reference(Kind.ALIAS, "dogs", "best")),
        (f"models:/m-{RUN}", Reference(Kind.LOGGED_MODEL, "cats", f"m-{RUN}")),
        ("stage:production", Reference(Kind.STAGE, "cats", "Production")),
        ("models:/dogs/Staging", Reference(Kind.STAGE, "dogs", "Staging")),
    ],
)
def test_reads_each_form(text: str | None, expected: Reference) -> None:
    assert parse(text, "cats") == expected


@pytest.mark.parametrize(
    "text",
    ["latest", "0", "-1", "a b", "models:/", "models:/dogs", "models:/dogs/latest", "models:/dogs/0", "stage:Live",
     "stage:", "runs:/short/model", f"runs:/{RUN}", "s3://bucket/model", "folder/model.pt2", "../model"],
)  # fmt: skip
def test_refuses_anything_else_and_says_what_would_do(text: str) -> None:
    with pytest.raises(SettingsError, match="give an alias"):
        parse(text, "cats")


def test_stages_are_deprecated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tasks.serving"):
        parse("stage:Production", "cats")
    assert "deprecated" in caplog.text


def test_only_aliases_and_stages_move() -> None:
    assert parse(None, "cats").follows == "champion"
    assert parse("stage:Production", "cats").follows == "Production"
    assert parse("7", "cats").follows is None
    assert parse(RUN, "cats").follows is None
