"""The tables of docs/threat-model.md: who can do what, as tests find it by trying."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from .conftest import ROOT

DOCUMENT = ROOT / "docs/threat-model.md"
END = "<!-- end -->"


def check(name: str, columns: Sequence[str], rows: Iterable[tuple[str, Mapping[str, bool | str]]]) -> None:
    """Compare what was found with a table of the document; with WRITE_TABLES=1 write it there first.

    Args:
        name: of the table, which stands in the comment above it.
        columns: their heads, behind the first one's, which is empty.
        rows: the first cell of each, and the others by the head of their column.

    Raises:
        AssertionError: the document has no such table, or another one.
    """
    begin = f"<!-- {name}: make test writes and checks this table -->"
    before, begins, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    assert begins, f"{DOCUMENT.name} has no line {begin}"
    written, ends, after = rest.partition(END)
    assert ends, f"{DOCUMENT.name} has no line {END} below {begin}"
    found = _markdown(columns, rows)
    if os.environ.get("WRITE_TABLES") == "1":
        DOCUMENT.write_text(f"{before}{begin}\n{found}\n{END}{after}", encoding="utf-8")
        return
    assert found.splitlines() == written.strip().splitlines(), (
        "WRITE_TABLES=1 writes what was found; read it before you commit"
    )


def _markdown(columns: Sequence[str], rows: Iterable[tuple[str, Mapping[str, bool | str]]]) -> str:
    lines = [f"| | {' | '.join(columns)} |", "|---|" + ":---:|" * len(columns)]
    for head, cells in rows:
        lines.append(f"| {head} | {' | '.join(_cell(cells[column]) for column in columns)} |")
    return "\n".join(lines)


def _cell(value: bool | str) -> str:
    return value if isinstance(value, str) else "yes" if value else "-"
