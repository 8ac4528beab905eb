"""Which layout is understood, from file names alone; tests/tasks/vision/data/test_cases.py has whole data sets."""

from __future__ import annotations

import pytest

from tasks.errors import DataError
from tasks.vision.data.contents import Contents, LayoutOptions
from tasks.vision.data.layout import arrange
from tasks.vision.data.records import Entry, Listing, Reason
from tasks.vision.data.understanding import lines

GOOD = ["train/cat/1.png", "train/dog/1.jpg", "train/dog/2.JPEG", "test/cat/9.png", "test/dog/9.PNG"]
ROOT = ["cat/1.png", "cat/2.jpg", "dog/1.webp", "dog/2"]


def listed(names: list[str], sheets: dict[str, str] | None = None, layout: str = "auto", **links: str) -> Listing:
    data = {name: text.encode() for name, text in (sheets or {}).items()}
    sizes = dict.fromkeys([*names, *data], 7)
    return arrange(Contents("pets", sizes, links, data), LayoutOptions(layout=layout))  # type: ignore[arg-type]


def labels(listing: Listing) -> dict[str, tuple[str, str]]:
    return {entry.name: (entry.split, entry.label) for entry in listing.entries.values()}


def reasons(listing: Listing) -> dict[str, Reason]:
    return {removal.name: removal.reason for removal in listing.removals}


def test_images_are_found_by_split_and_class() -> None:
    listing = listed(GOOD)
    assert listing.classes == ("cat", "dog")
    assert listing.entries["train/dog/2.JPEG"] == Entry("train/dog/2.JPEG", "train", "dog")
    assert (listing.has_test, listing.has_validation) == (True, False)
    assert (listing.files, listing.removals) == (5, ())


def test_a_test_folder_is_optional() -> None:
    assert not listed(GOOD[:3]).has_test


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Val", "VALID"])
def test_a_validation_folder_is_used(word: str) -> None:
    listing = listed([*GOOD, f"{word}/cat/5.png", f"{word}/dog/5.png"])
    assert labels(listing)[f"{word}/cat/5.png"] == ("validation", "cat")
    assert listing.has_validation


@pytest.mark.parametrize("train", ["Train", "TRAIN", "training", "train_images"])
def test_the_train_folder_has_other_names(train: str) -> None:
    listing = listed([f"{train}/cat/1.png", f"{train}/dog/1.png", "Testing/cat/2.png", "Testing/dog/2.png"])
    assert labels(listing)[f"{train}/cat/1.png"] == ("train", "cat")
    assert labels(listing)["Testing/dog/2.png"] == ("test", "dog")


def test_classes_may_lie_at_the_root() -> None:
    listing = listed([*ROOT, "README.md"])
    assert labels(listing)["dog/2"] == ("train", "dog")
    assert (len(listing.entries), reasons(listing)) == (4, {"README.md": Reason.OUTSIDE})


@pytest.mark.parametrize("top", ["pets-v2/", "a/b/c/"])
@pytest.mark.parametrize("names", [GOOD, ROOT])
def test_folders_may_wrap_the_layout(top: str, names: list[str]) -> None:
    listing = listed([f"{top}{name}" for name in names] + ["README.md", "LICENSE"])
    assert sorted(labels(listing)) == sorted(names)
    assert set(reasons(listing)) == {"README.md", "LICENSE"}


def test_folders_inside_each_other_without_end_are_no_layout() -> None:
    with pytest.raises(DataError, match="does not have the layout"):
        listed([f"{'d/' * 40}{label}/1.png" for label in ("cat", "dog")])


def test_images_may_lie_in_a_folder_of_their_class() -> None:
    names = ["train/cat/images/1.png", "train/dog/images/1.png", "train/dog/dog_boxes.txt", "train/dog/old/1.png"]
    listing = listed(names)
    assert labels(listing) == {names[0]: ("train", "cat"), names[1]: ("train", "dog")}
    assert reasons(listing) == {names[2]: Reason.UNSUPPORTED, names[3]: Reason.OUTSIDE}
    assert set(labels(listed([name.removeprefix("train/") for name in names[:2]]))) == {
        "cat/images/1.png",
        "dog/images/1.png",
    }


@pytest.mark.parametrize("held", ["test/unknown/1.png", "test/images/1.png", "test/1.png", "val/images/1.png"])
def test_a_held_out_folder_without_labels_is_not_used_and_said(held: str) -> None:
    listing = listed([*GOOD[:3], held])
    assert reasons(listing) == {held: Reason.UNLABELLED}
    folder = held.partition("/")[0]
    assert listing.notes == (f"{folder}/ has no labels and is not used (files: 1)",)
    assert f"splits: 3 train; validation and test will be split off train; {listing.notes[0]}" == lines(listing)[1]


def test_valid_and_invalid_are_classes_where_nothing_is_called_train() -> None:
    assert listed(["valid/1.png", "invalid/1.png"]).classes == ("invalid", "valid")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("README.md", Reason.OUTSIDE),
        ("train/list.txt", Reason.OUTSIDE),
        ("train/cat/deeper/1.png", Reason.OUTSIDE),
        ("sample/1.png", Reason.OUTSIDE),
        ("train/cat/1.txt", Reason.UNSUPPORTED),
        ("train/cat/1.MAT", Reason.UNSUPPORTED),
        ("train/cat/.hidden.png", Reason.HIDDEN),
        (".idea/config", Reason.HIDDEN),
    ],
)
def test_every_other_file_is_listed_with_its_reason(name: str, reason: Reason) -> None:
    listing = listed([*GOOD, name])
    assert reasons(listing) == {name: reason}
    assert listing.files == len(GOOD) + 1


@pytest.mark.parametrize("name", ["1.gif", "1.webp", "1.bin", "no_suffix", "1.jpg_large"])
def test_the_content_decides_not_the_suffix(name: str) -> None:
    listing = listed([*GOOD, f"train/cat/{name}"])
    assert f"train/cat/{name}" in listing.entries


@pytest.mark.parametrize(
    "name",
    [
        *("train/cat/.DS_Store", "train/cat/Thumbs.db", "desktop.ini", "train/._1.png", "__MACOSX/train/cat/._1.png"),
        *(".git/objects/a1", ".gitattributes", "train/.ipynb_checkpoints/1.png", "@eaDir/train/cat/1.jpg"),
    ],
)
def test_what_systems_and_tools_leave_behind_counts_nowhere(name: str) -> None:
    listing = listed([*GOOD, name])
    assert (listing.files, listing.removals, listing.junk) == (len(GOOD), (), 1)


def test_links_that_lead_nowhere_are_listed() -> None:
    listing = listed(GOOD, None, "auto", **{"train/cat/link.png": "leads to '/x'"})
    assert [(r.name, r.reason, r.detail) for r in listing.removals] == [
        ("train/cat/link.png", Reason.LINK, "leads to '/x'")
    ]
    for names, says in (([], "is empty"), (["test/cat/1.png", "test/dog/1.png"], "only in test/")):
        with pytest.raises(DataError, match=f"{says}.*; a link could not be followed: 'train' leads to '/x'"):
            listed(names, None, "auto", train="leads to '/x'")


def test_one_class_in_two_spellings_of_unicode_is_one_class() -> None:
    listing = listed(["train/caf\u00e9/1.png", "train/cafe\u0301/2.png", "train/the\u0301/1.png"])
    assert listing.classes == ("caf\u00e9", "th\u00e9")
    assert listing.entries["train/cafe\u0301/2.png"].name == "train/caf\u00e9/2.png"


def test_a_second_copy_beside_the_data_set_is_left_out_and_said() -> None:
    listing = listed([*GOOD, *(f"pets/{name}" for name in GOOD), "pets/train/cat/other.png"])
    assert sum(removal.reason is Reason.COPY for removal in listing.removals) == 5
    assert reasons(listing)["pets/train/cat/other.png"] is Reason.OUTSIDE
    assert listing.notes == ("files of a second copy of the data set, not used: 5",)


@pytest.mark.parametrize("names", [GOOD, ROOT])
def test_two_data_sets_side_by_side_are_refused(names: list[str]) -> None:
    with pytest.raises(DataError, match=r"several data sets \(a, b\); give one of them as source"):
        listed([f"{top}/{name}" for top in "ab" for name in names])


def test_train_beside_class_folders_is_refused_unless_one_is_chosen() -> None:
    names = [*GOOD[:3], *ROOT]
    with pytest.raises(DataError, match=r"both train/ with classes .*\(cat, dog\); set layout to 'splits'"):
        listed(names)
    assert set(labels(listed(names, layout="splits"))) == set(GOOD[:3])
    assert set(labels(listed(names, layout="classes"))) == set(ROOT)


def test_two_folders_for_one_split_are_refused() -> None:
    with pytest.raises(DataError, match=r"has (val/ and valid/|valid/ and val/), both for validation; join them"):
        listed([*GOOD, "val/cat/1.png", "val/dog/1.png", "valid/cat/1.png", "valid/dog/1.png"])


SHEET = "file,label\ntrain/cat/1.png,{}\ntrain/dog/1.jpg,{}\ntrain/dog/2.JPEG,{}\n"


@pytest.mark.parametrize("values", [("cat", "dog", "dog"), ("0", "1", "1")])
def test_a_sheet_that_agrees_with_the_folders_changes_nothing(values: tuple[str, ...]) -> None:
    listing = listed(GOOD, {"labels.csv": SHEET.format(*values)})
    assert labels(listing) == labels(listed(GOOD))


def test_a_sheet_that_disagrees_with_the_folders_is_refused_unless_one_is_chosen() -> None:
    sheet = {"labels.csv": SHEET.format("cat", "cat", "dog")}
    with pytest.raises(DataError, match=r"both class folders in train/, test/ and a label sheet, labels.csv \(column"):
        listed(GOOD, sheet)
    assert labels(listed(GOOD, sheet, "splits"))["train/dog/1.jpg"] == ("train", "dog")
    assert labels(listed(GOOD[:3], sheet, "sheet"))["train/dog/1.jpg"] == ("train", "cat")


def test_metadata_of_other_words_than_the_classes_stay_slices() -> None:
    sheet = "file_name,breed\ntrain/cat/1.png,siamese\ntrain/dog/1.jpg,poodle\ntrain/dog/2.JPEG,beagle\n"
    listing = listed(GOOD, {"metadata.csv": sheet})
    assert (listing.classes, listing.columns) == (("cat", "dog"), ("breed",))


def test_a_table_without_known_labels_beside_folders_is_pointed_out() -> None:
    names = ["part_1/a.jpg", "part_2/b.jpg"]
    listing = listed(names, {"meta.csv": "image_id,dx\na,nv\nb,mel\n"})
    assert listing.notes == ("meta.csv names images too: if the labels are there, set label_column",)
    assert listed(names, {"meta.csv": "image_id,dx\nx,nv\ny,mel\n"}).notes == ()
    assert listed(names, {"meta.csv": "image_id\na\nb\n"}).notes == ()


def test_a_sheet_about_something_else_does_not_matter() -> None:
    listing = listed(GOOD, {"people.csv": "id,label\n1,a\n2,b\n", "broken.csv": 'id,label\n"'})
    assert set(reasons(listing)) == {"people.csv", "broken.csv"}


@pytest.mark.parametrize(
    ("names", "layout", "says"),
    [
        ([], "auto", "pets is empty; it must hold train/CLASS"),
        (["a.png", "b.png"], "auto", "layout of an image folder; it must hold train/CLASS"),
        (["a.txt", "b/c.txt"], "auto", "layout of an image folder; it must hold train/CLASS"),
        (["train/cat/1.png", "train/cat/2.png"], "auto", "only the class 'cat'; a classifier needs two"),
        (["images/cat1.png", "images/dog1.png"], "auto", "only the class 'images'; a classifier needs two or more"),
        ([*GOOD, "test/emu/1.png"], "auto", "the class 'emu' only in test/; add training images or remove"),
        ([*GOOD, "train/emu/1.png"], "auto", "the class 'emu' only in train/; add test images, or remove test/"),
        ([*GOOD, "Val/cat/1.png", "Val/emu/1.png"], "auto", "the class 'emu' only in Val/"),
        ([*GOOD, "val/cat/1.png"], "auto", "the class 'dog' only in train/; add validation images, or remove val/"),
        (["test/cat/1.png", "test/dog/1.png"], "auto", "the classes 'cat', 'dog' only in test/"),
        (["train/cat/1.txt", "train/dog/1.txt"], "auto", "no images in class folders in train/"),
        (GOOD, "parquet", "has no .parquet file; set layout to 'auto'"),
        (GOOD, "sheet", "has no CSV, TSV or JSONL file with a column of file names and one of labels among none"),
        (ROOT, "splits", "has no folders as in train/CLASS/*; set layout"),
    ],
)
def test_a_source_that_cannot_be_trained_on_is_refused(names: list[str], layout: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        listed(names, layout=layout)
    assert says in str(error.value)


def test_what_was_understood_is_said_in_three_lines() -> None:
    listing = listed([*(f"top/{name}" for name in ROOT), "top/fox/1.png", "notes.txt"])
    assert lines(listing) == (
        "layout: class folders in top/; not used: 1 of 6 files",
        "splits: 5 train; validation and test will be split off train",
        "classes: 3 ('cat', 'dog', 'fox')",
    )
