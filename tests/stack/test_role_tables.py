"""The tables of docs/threat-model.md are compared with what was tried, cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import role_tables

TABLE = """before
<!-- Doors: make test writes and checks this table -->
| | open | lock |
|---|:---:|:---:|
| guest | yes | - |
| owner | yes | `key` |
<!-- end -->
after
"""
ROWS: list[tuple[str, dict[str, bool | str]]] = [
    ("guest", {"open": True, "lock": False}),
    ("owner", {"open": True, "lock": "`key`"}),
]


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("WRITE_TABLES", raising=False)
    monkeypatch.setattr(role_tables, "DOCUMENT", tmp_path / "document.md")
    (tmp_path / "document.md").write_text(TABLE)
    return tmp_path / "document.md"


def test_what_was_found_is_what_is_written(document: Path) -> None:
    role_tables.check("Doors", ["open", "lock"], ROWS)
    assert document.read_text() == TABLE


@pytest.mark.parametrize(
    "change", [("yes | -", "yes | yes"), ("| guest | yes | - |\n", ""), ("open | lock", "lock | open")]
)
def test_one_cell_row_or_head_that_differs_fails(document: Path, change: tuple[str, str]) -> None:
    document.write_text(TABLE.replace(*change))
    with pytest.raises(AssertionError, match="WRITE_TABLES=1 writes what was found"):
        role_tables.check("Doors", ["open", "lock"], ROWS)


def test_a_table_that_is_not_there_fails(document: Path) -> None:
    with pytest.raises(AssertionError, match="has no line <!-- Windows: "):
        role_tables.check("Windows", ["open", "lock"], ROWS)


def test_what_was_found_is_written_on_demand_and_nothing_else(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document.write_text(TABLE.replace("yes | -", "- | -"))
    monkeypatch.setenv("WRITE_TABLES", "1")
    role_tables.check("Doors", ["open", "lock"], ROWS)
    assert document.read_text() == TABLE
