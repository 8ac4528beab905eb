from __future__ import annotations

import pytest

from tasks.errors import DataError
from tasks.vision.data.layout import arrange, safe_name
from tasks.vision.data.records import Entry, Reason

GOOD = ["train/cat/1.png", "train/dog/1.jpg", "train/dog/2.JPEG", "test/cat/9.png", "test/dog/9.PNG"]


def test_images_are_found_by_split_and_class() -> None:
    listing = arrange(GOOD, "pets")
    assert listing.classes == ("cat", "dog")
    assert listing.entries["train/dog/2.JPEG"] == Entry("train/dog/2.JPEG", "train", "dog")
    assert listing.has_test
    assert (listing.files, listing.removals) == (5, ())


def test_a_test_folder_is_optional() -> None:
    assert not arrange(GOOD[:3], "pets").has_test


def test_one_top_folder_may_wrap_the_layout() -> None:
    listing = arrange([f"pets-v2/{name}" for name in GOOD] + ["README.md"], "pets")
    assert listing.entries["pets-v2/train/cat/1.png"].name == "train/cat/1.png"
    assert [removal.name for removal in listing.removals] == ["README.md"]


def test_several_top_folders_are_ambiguous() -> None:
    with pytest.raises(DataError, match=r"several data sets \(a, b\)"):
        arrange([f"{top}/{name}" for top in "ab" for name in GOOD], "pets")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("README.md", Reason.OUTSIDE),
        ("train/list.txt", Reason.OUTSIDE),
        ("train/cat/deeper/1.png", Reason.OUTSIDE),
        ("validation/cat/1.png", Reason.OUTSIDE),
        ("train/cat/1.gif", Reason.UNSUPPORTED),
        ("train/cat/notes", Reason.UNSUPPORTED),
        ("train/cat/.DS_Store", Reason.HIDDEN),
        ("__MACOSX/train/cat/._1.png", Reason.HIDDEN),
        (".git/config", Reason.HIDDEN),
    ],
)
def test_every_other_file_is_listed_with_its_reason(name: str, reason: Reason) -> None:
    listing = arrange([*GOOD, name], "pets")
    assert [(removal.name, removal.reason) for removal in listing.removals] == [(name, reason)]
    assert listing.files == len(GOOD) + 1


def test_the_suffix_is_said() -> None:
    assert ".webp; supported: .jpg" in arrange([*GOOD, "train/cat/1.webp"], "pets").removals[0].detail


def test_links_are_listed_not_followed() -> None:
    listing = arrange(GOOD, "pets", links=["train/cat/link.png"])
    assert [(removal.name, removal.reason) for removal in listing.removals] == [("train/cat/link.png", Reason.LINK)]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "pets is empty; it must hold train/CLASS"),
        (["a.png", "cat/b.png"], "layout of an image folder; it must hold train/CLASS"),
        (["train/cat/1.png", "train/cat/2.png"], "only the class 'cat'; a classifier needs two"),
        ([*GOOD, "test/emu/1.png"], "the class 'emu' only in test/; add training images or remove"),
        ([*GOOD, "train/emu/1.png"], "the class 'emu' only in train/; add test images"),
        (["test/cat/1.png", "test/dog/1.png"], "the classes 'cat', 'dog' only in test/"),
        (["train/cat/1.gif", "train/dog/1.gif"], "no file that ends in .jpg, .jpeg, .png; convert"),
    ],
)
def test_a_source_that_cannot_be_trained_on_is_refused(names: list[str], says: str) -> None:
    with pytest.raises(DataError) as error:
        arrange(names, "pets")
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a/..", "C:/x", r"..\x", r"a\b", "a\0b"])
def test_a_path_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="leads out of it"):
        safe_name(name, "pets.tar")


def test_a_name_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(DataError, match="not UTF-8; rename"):
        safe_name("train/caf\udce9/1.png", "pets.tar")


def test_a_path_is_given_in_its_plain_form() -> None:
    assert safe_name("./train//cat/./1..png", "pets.tar") == "train/cat/1..png"
