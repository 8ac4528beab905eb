"""Labels from a table beside the images."""

from __future__ import annotations

import json

import pytest

from tasks.errors import DataError
from tasks.vision.data.contents import Contents, LayoutOptions
from tasks.vision.data.layout import arrange
from tasks.vision.data.records import Listing, Reason

IMAGES = ["images/1.png", "images/2.png", "images/3.png"]
ROWS = [("1.png", "cat"), ("2.png", "dog"), ("3.png", "dog")]


def listed(names: list[str], sheets: dict[str, str | bytes], **options: str) -> Listing:
    data = {name: text.encode() if isinstance(text, str) else text for name, text in sheets.items()}
    return arrange(Contents("pets", dict.fromkeys([*names, *data], 7), {}, data), LayoutOptions(**options))


def labels(listing: Listing) -> dict[str, str]:
    return {entry.name: f"{entry.split} {entry.label}" for entry in listing.entries.values()}


def sheet(file: str, label: str, rows: list[tuple[str, str]] = ROWS, between: str = ",") -> str:
    return "".join(f"{between.join(row)}\r\n" for row in [(file, label), *rows])


GOOD = {"images/1.png": "train cat", "images/2.png": "train dog", "images/3.png": "train dog"}


@pytest.mark.parametrize("file", ["file_name", "filename", "File Name", "file", "image", "image_id", "path", "ID"])
@pytest.mark.parametrize("label", ["label", "class", "Category", "target", "breed", "species"])
def test_the_usual_names_of_columns_are_known(file: str, label: str) -> None:
    assert labels(listed(IMAGES, {"labels.csv": sheet(file, label)})) == GOOD


@pytest.mark.parametrize("between", [",", ";", "\t", "|"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_what_spreadsheets_write_is_read(between: str, bom: str) -> None:
    assert labels(listed(IMAGES, {"labels.csv": bom + sheet("file", "label", between=between)})) == GOOD


def test_tsv_and_json_lines_are_read() -> None:
    assert labels(listed(IMAGES, {"a.tsv": sheet("file", "label", between="\t")})) == GOOD
    lines = "".join(json.dumps({"file_name": file, "label": label, "box": [1, 2]}) + "\n" for file, label in ROWS)
    assert labels(listed(IMAGES, {"a.jsonl": lines})) == GOOD


def test_columns_of_other_names_are_given() -> None:
    sheets: dict[str, str | bytes] = {"labels.csv": sheet("photo", "what")}
    assert labels(listed(IMAGES, sheets, file_column="photo", label_column="What")) == GOOD
    with pytest.raises(DataError, match=r"column 'pic' and one of labels among labels.csv \('photo', 'what'\); set"):
        listed(IMAGES, sheets, file_column="pic")


@pytest.mark.parametrize("value", ["1.png", "images/1.png", "./images//1.png", r"images\1.png", "1", "x/../images/1"])
def test_a_file_is_named_by_path_by_name_or_without_its_suffix(value: str) -> None:
    rows = [(value, "cat"), *ROWS[1:]]
    assert labels(listed(IMAGES, {"labels.csv": sheet("file", "label", rows)})) == GOOD


def test_the_folder_of_the_file_says_the_split() -> None:
    names = ["train/1.png", "train/2.png", "test/3.png", "test/4.png"]
    rows = [("train/1.png", "cat"), ("train/2.png", "dog"), ("3.png", "cat"), ("4.png", "dog")]
    found = labels(listed(names, {"metadata.csv": sheet("file_name", "label", rows)}))
    assert found["train/1.png"] == "train cat"
    assert found["test/4.png"] == "test dog"


def test_each_split_may_have_its_sheet() -> None:
    rows = [("1.png", "cat"), ("2.png", "dog")]
    sheets: dict[str, str | bytes] = {
        "train.csv": sheet("file", "label", [(f"all/{file}", label) for file, label in rows]),
        "val/metadata.csv": sheet("file_name", "label", rows),
    }
    names = ["all/1.png", "all/2.png", "val/1.png", "val/2.png"]
    found = labels(listed(names, sheets, layout="sheet"))
    assert found == {
        "all/1.png": "train cat",
        "all/2.png": "train dog",
        "val/1.png": "validation cat",
        "val/2.png": "validation dog",
    }


def test_a_column_may_say_the_split() -> None:
    text = "file,label,split\n1.png,cat,train\n2.png,dog,train\n3.png,cat,val\n4.png,dog,val\n"
    assert labels(listed([*IMAGES, "images/4.png"], {"labels.csv": text}))["images/3.png"] == "validation cat"
    with pytest.raises(DataError, match=r"labels.csv, line 4: split 'fold3' is not a split; write train, val"):
        listed([*IMAGES, "images/4.png"], {"labels.csv": text.replace("cat,val", "cat,fold3")})


def test_two_data_sets_with_a_sheet_each_are_refused() -> None:
    names = [f"{folder}/{file}.png" for folder in "ab" for file in "123"]
    with pytest.raises(DataError, match=r"several data sets \(a/labels.csv, b/labels.csv\); give one"):
        listed(names, {f"{folder}/labels.csv": sheet("file", "label") for folder in "ab"}, layout="sheet")


def test_folders_of_folders_beside_a_sheet_are_only_places() -> None:
    names = ["part1/x/1.png", "part2/y/2.png", "part2/y/3.png"]
    assert listed(names, {"labels.csv": sheet("file", "label")}).classes == ("cat", "dog")


def test_kaggle_s_test_images_have_no_labels_and_its_example_is_no_sheet() -> None:
    names = ["train/a1.jpg", "train/b2.jpg", "test/c3.jpg", "test/d4.jpg"]
    example = sheet("id", "label", [("c3", "0"), ("d4", "0")])
    listing = listed(
        names, {"train.csv": sheet("id", "label", [("a1", "cat"), ("b2", "dog")]), "sample_submission.csv": example}
    )
    assert labels(listing) == {"train/a1.jpg": "train cat", "train/b2.jpg": "train dog"}
    assert {r.name: r.reason for r in listing.removals} == {
        "test/c3.jpg": Reason.UNLABELLED,
        "test/d4.jpg": Reason.UNLABELLED,
        "sample_submission.csv": Reason.OUTSIDE,
    }
    assert listing.notes == ("images of test without a row, not used: 2",)


def test_an_image_for_training_without_a_row_is_left_out_and_counts() -> None:
    listing = listed([*IMAGES, "images/9.png"], {"labels.csv": sheet("file", "label")})
    assert [(r.name, r.reason) for r in listing.removals] == [("images/9.png", Reason.NO_LABEL)]


def test_metadata_of_a_labelled_sheet_are_slices() -> None:
    text = "file_name,label,camera\n1.png,cat,left\n2.png,dog,\n3.png,dog,right\n"
    listing = listed([name.removeprefix("images/") for name in IMAGES], {"metadata.csv": text})
    assert listing.columns == ("camera",)
    assert [entry.metadata for entry in listing.entries.values()] == [("left",), ("",), ("right",)]
    assert listed(IMAGES, {"labels.csv": text}).columns == ()


def test_labels_in_two_spellings_of_unicode_are_one_class() -> None:
    rows = [("1.png", "caf\u00e9"), ("2.png", " cafe\u0301 "), ("3.png", "a  b")]
    assert listed(IMAGES, {"labels.csv": sheet("file", "label", rows)}).classes == ("a b", "caf\u00e9")


def test_a_name_in_another_spelling_of_unicode_is_found() -> None:
    rows = [("caf\u00e9.png", "a"), ("2.png", "b")]
    listing = listed(["cafe\u0301.png", "2.png"], {"labels.csv": sheet("file", "label", rows)})
    assert set(listing.entries) == {"cafe\u0301.png", "2.png"}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("file,label\n1.png,cat\n7.png,dog\n", 3, "file '7.png' is not a file of the source; correct it"),
        ("file,label\n1.png,cat\n../../etc/passwd,dog\n", 3, "is not a file of the source"),
        ("file,label\n1.png,cat\n2.png,\n", 3, "label is empty for '2.png'; fill it in or remove"),
        ("file,label\n1.png,cat\n,dog\n", 3, "file is empty; fill it in"),
        (
            "file,label\n1.png,cat\n2.png,dog\n1.png,dog\n",
            4,
            "has another row in pets: labels.csv, line 2",
        ),
        ("file,label\n1.png,cat,x\n", 2, "3 cells, but 2 columns"),
        ("file,label\n1.png,cat\n2.png,caf\u00e9\n".encode("latin-1"), 3, "not UTF-8; save the file as UTF-8"),
        ('file,label\n1.png,cat\n2.png,"dog\n', 3, "not valid CSV (unexpected end of data)"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_fix(text: str | bytes, line: int, says: str) -> None:
    with pytest.raises(DataError) as error:
        listed(IMAGES, {"labels.csv": text}, layout="sheet")
    assert str(error.value).startswith(f"pets: labels.csv, line {line}: ")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100000, "not valid JSON"),
        ('{"file": "1.png"}', "label is empty"),
    ],
)
def test_a_bad_line_of_json_is_named(line: str, says: str) -> None:
    good = '{"file": "2.png", "label": "dog"}\n\n'
    with pytest.raises(DataError, match=rf"pets: a\.jsonl, line 3: {says}"):
        listed(IMAGES, {"a.jsonl": f"{good}{line}\n"}, layout="sheet")


def test_the_same_row_twice_is_no_contradiction() -> None:
    assert labels(listed(IMAGES, {"labels.csv": sheet("file", "label", [*ROWS, ROWS[0]])})) == GOOD


def test_a_name_that_means_several_files_is_refused() -> None:
    with pytest.raises(DataError, match=r"line 2: file '1.png' is ambiguous: a/1.png or b/1.png; write the path"):
        listed(["a/1.png", "b/1.png"], {"labels.csv": "file,label\n1.png,cat\n"}, layout="sheet")


def test_of_several_files_the_one_of_the_sheet_s_split_is_meant() -> None:
    names = [f"{split}/{file}.png" for split in ("train", "test") for file in "12"]
    rows = [("1.png", "cat"), ("2.png", "dog")]
    assert set(labels(listed(names, {"labels.csv": sheet("file", "label", rows)}))) == {"train/1.png", "train/2.png"}
