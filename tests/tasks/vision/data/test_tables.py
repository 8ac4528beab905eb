from __future__ import annotations

import tracemalloc

import pytest

from tasks.errors import DataError
from tasks.vision.data import tables


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_the_size_of_a_table_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 3)
    monkeypatch.setattr(tables, "MAX_COLUMNS", 4)

    def read(columns: int, rows: int) -> int:
        header = ",".join(f"c{number}" for number in range(columns))
        line = "{" + ",".join(f'"c{number}":1' for number in range(columns)) + "}\n"
        text = line * rows if name.endswith("jsonl") else f"{header}\n" * (rows + 1)
        return len(list(tables.read(name, text.encode(), "pets").rows))

    assert read(4, 3) == 3
    with pytest.raises(DataError, match=f"pets: {name} has over 3 rows; split the data set"):
        read(4, 4)
    with pytest.raises(DataError, match=f"pets: {name}, line 1: over 4 columns; keep"):
        read(5, 3)


def test_json_lines_are_not_kept_in_memory() -> None:
    data = b'{"label": "cat"}\n' * 20_000
    tracemalloc.start()
    assert sum(1 for _ in tables.read("a.jsonl", data, "pets").rows) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * len(data)


def test_columns_of_json_lines_are_those_of_all_lines() -> None:
    table = tables.read("a.jsonl", b'\n{}\n{"a": 1}\n\n{"b": [2]}\n', "pets")
    assert table.columns == ("a", "b")
    assert [(str(row.place), row.values) for row in table.rows] == [
        ("pets: a.jsonl, line 2", {}),
        ("pets: a.jsonl, line 3", {"a": "1"}),
        ("pets: a.jsonl, line 5", {"b": "[2]"}),
    ]


@pytest.mark.parametrize("line", [r'{"label": "\ud800"}', r'{"\udc00": 1}', r'{"label": ["\ud800"]}'])
def test_half_a_character_in_json_is_named(line: str) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: not valid JSON"):
        tables.read("a.jsonl", line.encode(), "pets")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("filling", [b"x", b",", b"\t", b'"', b"[", "\N{DOG FACE}".encode(), b" ", b'"\n",'])
def test_a_row_without_end_takes_no_memory(name: str, filling: bytes) -> None:
    """A list of 16 million empty cells takes 128 MB."""
    data = filling * (16 * 2**20 // len(filling))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"pets: a\.\w+, line \d+: (over 1048576 characters in one row|not valid)"):
        list(tables.read(name, data, "pets").rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_many_rows_of_less_than_the_limit_are_read() -> None:
    data = b"a,b\n" + (b"x" * 100_000 + b",1\n") * 20
    assert sum(len(row.values["a"]) for row in tables.read("a.csv", data, "pets").rows) == 2_000_000


@pytest.mark.parametrize("good", [0, 7, 2**20 - 1, 2**20])
def test_the_line_of_what_is_not_utf8_is_named(good: int) -> None:
    data = b"a\n\n" + "é".encode() * (good // 2) + b"x" * (good % 2) + b"\xff\n"
    with pytest.raises(DataError, match=r"pets: a\.csv, line 3: not UTF-8"):
        tables.read("a.csv", data, "pets")
