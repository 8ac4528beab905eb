from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.vision.data import corrections, tables
from tasks.vision.data.array_source import ArraySource
from tasks.vision.data.corrections import CorrectedSource
from tasks.vision.data.gold import Split
from tasks.vision.data.losses import require_few
from tasks.vision.data.records import Reason
from tasks.vision.evaluation import suspected_labels
from tasks.vision.evaluation.suspected_labels import Suspect

CAT0, CAT1, DOG0, DOG1, TEST_CAT = (
    *("train/cat/00000", "train/cat/00001", "train/dog/00002", "train/dog/00003"),
    "test/cat/00004",
)


@pytest.fixture
def source() -> ArraySource:
    images = np.arange(5, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    splits = ["train"] * 4 + ["test"]
    return ArraySource("pets", images, np.array([0, 0, 1, 1, 0]), splits, ("cat", "dog"))


def applied(source: ArraySource, *lines: str) -> CorrectedSource:
    return corrections.apply(corrections.parse("fixed.csv", "\n".join(["file,label", *lines]).encode()), source)


def test_an_image_gets_another_class_or_is_left_out(source: ArraySource) -> None:
    corrected = applied(source, f"{CAT0},dog", f"{DOG1},", f"{TEST_CAT},dog")
    labels = {entry.name: entry.label for entry in corrected.listing.entries.values()}
    assert labels == {CAT0: "dog", CAT1: "cat", DOG0: "dog", TEST_CAT: "dog"}
    (removal,) = corrected.listing.removals
    assert (removal.name, removal.split, removal.label) == (DOG1, "train", "dog")
    assert (removal.reason, removal.detail) == (Reason.CORRECTED, "corrections: fixed.csv, line 3")
    assert corrected.listing.files == source.listing.files
    assert corrected.digest() == source.digest()
    assert (corrected.dataset, corrected.channels, corrected.side) == ("pets", 1, 8)


def test_what_is_read_is_what_is_listed_with_its_own_pixels(source: ArraySource) -> None:
    corrected = applied(source, f"{CAT0},dog", f"{CAT1},")
    read = {entry: int(np.asarray(reader())[0, 0]) for entry, reader in corrected.read()}
    assert sorted(read, key=lambda entry: entry.name) == sorted(
        corrected.listing.entries.values(), key=lambda entry: entry.name
    )
    assert {entry.name: value for entry, value in read.items()} == {CAT0: 0, DOG0: 2, DOG1: 3, TEST_CAT: 4}


def test_images_that_a_person_leaves_out_do_not_count_for_the_limit(source: ArraySource) -> None:
    listing = applied(source, f"{CAT0},", f"{DOG0},").listing
    require_few(listing, listing.removals, 0.0, "pets")


def test_what_changed_is_said_in_words(source: ArraySource) -> None:
    table = corrections.parse("a.csv", f"file,label\n{CAT0},dog\n{CAT1},\n{DOG0},dog\n".encode())
    after = corrections.apply(table, source).listing
    said = corrections.summary(table, source.listing, after)
    assert said == "1 images get another label, 1 are left out, 1 had that label already"


@pytest.mark.parametrize(
    "text",
    [
        f"file,label\n{CAT0},dog\n",
        f"\ufefffile,label\n{CAT0},dog\n",
        f"file;label\r\n{CAT0};dog\r\n",
        f"label,score,file,was\ndog,0.01,{CAT0},cat\n",
        f"File, Label \n {CAT0} , dog \n,\n",
        f'file,label\n"{CAT0}",dog\n{CAT0},dog\n',
    ],
    ids=["plain", "byte order mark", "semicolons", "other columns", "blanks and an empty line", "the same line twice"],
)
def test_tables_as_programs_write_them_are_read(source: ArraySource, text: str) -> None:
    table = corrections.parse("fixed.csv", text.encode())
    assert table.sha256 == hashlib.sha256(text.encode()).hexdigest()
    labels = {entry.name: entry.label for entry in corrections.apply(table, source).listing.entries.values()}
    assert labels == {CAT0: "dog", CAT1: "cat", DOG0: "dog", DOG1: "dog", TEST_CAT: "cat"}


def test_other_kinds_of_tables_are_read(source: ArraySource) -> None:
    for name, text in {"a.tsv": f"file\tlabel\n{CAT0}\t\n", "a.jsonl": f'{{"file": "{CAT0}", "label": null}}'}.items():
        assert len(corrections.apply(corrections.parse(name, text.encode()), source).listing.entries) == 4


def test_the_list_of_suspected_labels_is_corrections_as_it_is(source: ArraySource, tmp_path: Path) -> None:
    split = Split(source.images[:2, None], source.labels[:2], (CAT0, CAT1))
    suspect = Suspect("train", 0, split.names[0], label=0, suggested=1, score=0.01)
    suspected_labels.write([suspect], source.classes, tmp_path / "suspected_labels.csv")
    table = corrections.parse("suspected_labels.csv", (tmp_path / "suspected_labels.csv").read_bytes())
    assert {file: correction.label for file, correction in table.by_file.items()} == {CAT0: "dog"}


def test_names_are_the_same_in_each_form_of_unicode(source: ArraySource) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    source = replace(source, classes=(decomposed, "dog"))
    table = corrections.parse("a.csv", f"file,label\ntrain/{composed}/00000,dog\n{DOG0},{composed}\n".encode())
    labels = [entry.label for entry in corrections.apply(table, source).listing.entries.values()]
    assert labels == ["dog", decomposed, decomposed, "dog", decomposed]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "line 1: no column 'file' (columns: none); it needs one column 'file' and one 'label'"),
        (b"file,was\na,b\n", "line 1: no column 'label' (columns: 'file', 'was')"),
        (b"file,label,label\na,b,c\n", "line 1: 2 columns 'label'"),
        (b"file,label\n", "line 1: no line with a correction; set no corrections where there are none"),
        (b"file,label\n,\n", "no line with a correction"),
        (b"file,label\n,dog\n", "line 2: file is empty; fill it in or remove the line"),
        (
            b"file,label\na,dog\nb,cat\na,cat\n",
            "line 4: 'a' gets label 'cat', but 'dog' in corrections: fixed.csv, line 2",
        ),
        (b"file,label\na,dog\na,\n", "line 3: 'a' gets label '', but 'dog'"),
        (b"file,label\na,dog,1\n", "line 2: 3 cells, but 2 columns"),
        (b'file,label\n"a,dog\n', "not valid CSV"),
        ("file,label\nä,dog\n".encode("latin-1"), "line 2: not UTF-8; save the file as UTF-8"),
        (b"PK\x03\x04\xff\xfe\x00", "line 1: not UTF-8"),
        (b"\x00" * 1000, "line 1: no column 'file'"),
        (b"file,label\n" + b"a" * 200_000 + b",dog\n", "not valid CSV (field larger than field limit"),
        (b",".join(b"c%d" % i for i in range(1001)), "over 1000 columns"),
    ],
)
def test_a_bad_table_ends_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(DataError) as error:
        corrections.parse("fixed.csv", data)
    assert says in str(error.value)
    assert str(error.value).startswith("corrections: fixed.csv, line ")
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 700


def test_a_table_may_not_have_any_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 3)
    with pytest.raises(DataError, match="over 3 rows"):
        corrections.parse("fixed.csv", b"file,label\na,b\nb,b\nc,b\nd,b\n")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            [f"{CAT0},dgo"],
            "line 2: label 'dgo' of 'train/cat/00000' is no class of the data set; write 'dog', or leave",
        ),
        (
            [f"{CAT0},bird"],
            "is no class of the data set; write 'cat' or 'dog', or leave it empty to leave the image out",
        ),
        ([f"{CAT0},CAT"], "label 'CAT' of"),
        (["train/cat/0000,dog"], "line 2: 1 of 1 files are no images of the data set ('train/cat/0000'); did you mean"),
        (["x" * 100_000 + ",dog"], "('" + "x" * 100 + "…'); correct them"),
        ([f"{CAT0}," + "y" * 100_000], "label '" + "y" * 100 + "…' of 'train/cat/00000' is no class"),
        (["old/00003,cat"], "('old/00003'); did you mean 'train/dog/00003'? Correct them or remove their lines"),
        (
            [f"{CAT0},dog", *(f"?{i},dog" for i in range(9))],
            "line 3: 9 of 10 files are no images of the data set ('?0', '?1', '?2', …); correct them or",
        ),
    ],
)
def test_what_the_data_set_does_not_have_ends_in_one_line(source: ArraySource, lines: list[str], says: str) -> None:
    with pytest.raises(DataError) as error:
        applied(source, *lines)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_name_among_very_many_is_said_within_seconds(source: ArraySource) -> None:
    many = replace(
        source, images=np.zeros((300_000, 1, 1), np.uint8), labels=np.zeros(300_000, int), splits=["train"] * 300_000
    )
    many.listing  # noqa: B018  # made before the time is taken
    started = time.process_time()
    with pytest.raises(DataError, match="1 of 1 files are no images"):
        applied(many, "train/cats/12345678,dog")
    assert time.process_time() - started < 20
