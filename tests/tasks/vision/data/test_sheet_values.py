from __future__ import annotations

import tracemalloc

import pytest

from tasks.errors import DataError
from tasks.vision.data import sheet_values
from tasks.vision.data.contents import Contents, LayoutOptions
from tasks.vision.data.layout import arrange
from tasks.vision.data.sheet_values import SheetValues
from tasks.vision.data.tables import Place, Row

PLACE = Place("pets: metadata.csv", 2)


def test_values_are_given_in_the_order_of_all_columns() -> None:
    values = SheetValues("pets", 0)
    values.add_columns(("a", "b"), PLACE)
    values.keep("1.png", Row(PLACE, {"a": "x", "b": "y"}), ("a", "b"))
    values.add_columns(("c", "a"), PLACE)
    values.keep("2.png", Row(PLACE, {"a": "z", "c": "w"}), ("c", "a"))
    assert values.columns == ("a", "b", "c")
    assert values.by_image() == {"1.png": ("x", "y", ""), "2.png": ("z", "", "w")}


def test_equal_texts_are_kept_once() -> None:
    values = SheetValues("pets", 0)
    first, second = ("long " * 3 + end for end in ("x", "x"))
    assert first is not second
    assert values.share(first, PLACE) is values.share(second, PLACE)


def test_columns_of_all_tables_together_are_bounded() -> None:
    values = SheetValues("pets", 0)
    values.add_columns([f"a{n}" for n in range(600)], PLACE)
    with pytest.raises(DataError, match=r"pets: metadata\.csv, line 2: over 1000 columns in all tables together"):
        values.add_columns([f"b{n}" for n in range(600)], PLACE)


def keep_all(values: SheetValues, names: tuple[str, ...], count: int) -> None:
    for number in range(count):
        values.keep(f"{number}.png", Row(PLACE, dict.fromkeys(names, f"value {number}")), names)


@pytest.mark.parametrize("source_bytes", [0, 10**6, 10**7])
def test_the_memory_is_bounded_as_counted(source_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the source is larger than the limit, its own size is the limit."""
    monkeypatch.setattr(sheet_values, "MAX_VALUE_BYTES", 3 * 10**6)
    names = tuple(f"c{n}" for n in range(20))
    tracemalloc.start()
    values = SheetValues("pets", source_bytes)
    values.add_columns(names, PLACE)
    with pytest.raises(DataError, match=r"line 2: with it, the tables of pets take over \d MiB of memory; remove col"):
        keep_all(values, names, 30_000)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.4 < used / max(3 * 10**6, source_bytes) < 1.3


@pytest.mark.parametrize("name", ["labels.csv", "metadata.csv"])
def test_a_wide_sheet_of_an_image_folder_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image of it kept a dictionary of all columns."""
    monkeypatch.setattr(sheet_values, "MAX_VALUE_BYTES", 10**6)
    images = [f"{label}/{n}.png" for label in ("cat", "dog") for n in range(300)]
    header = "file_name,label" + "".join(f",c{n}" for n in range(900))
    lines = "".join(f"{image},{image[:3]}{',' * 900}\n" for image in images)
    sheet = f"{header}\n{lines}".encode()
    contents = Contents("pets", {**dict.fromkeys(images, 1), name: len(sheet)}, sheets={name: sheet})
    if name == "metadata.csv":
        with pytest.raises(DataError, match="the tables of pets take over 0 MiB of memory"):
            arrange(contents)
    else:  # its values are not kept
        tracemalloc.start()
        assert len(arrange(contents, LayoutOptions(layout="sheet")).entries) == 600
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * 10**6


def test_rows_of_one_image_with_many_labels_take_no_memory() -> None:
    """Seen: 800 MB for 1.5 million rows."""
    images = [f"{label}/{n}.png" for label in ("cat", "dog") for n in range(3)]
    sheet = b"file_name,label\n" + b"".join(b"cat/1.png,%d\n" % n for n in range(30_000))
    contents = Contents("pets", {**dict.fromkeys(images, 1), "x.csv": len(sheet)}, sheets={"x.csv": sheet})
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a label sheet, x\.csv .column 'label'., which disagree"):
        arrange(contents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 10**6


def test_a_label_of_thousands_of_characters_is_no_class() -> None:
    sheet = b"file_name,label\n1.png,%s\n" % (b"x" * 1001)
    contents = Contents("pets", {"1.png": 1, "x.csv": len(sheet)}, sheets={"x.csv": sheet})
    with pytest.raises(DataError, match=r"x\.csv, line 2: label has 1001 characters, over 1000; set label_column"):
        arrange(contents)
