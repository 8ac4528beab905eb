from __future__ import annotations

import pytest

from tasks.vision.data.contents import Contents
from tasks.vision.data.image_index import MAX_PARTS, ImageIndex


def index(*names: str) -> ImageIndex:
    return ImageIndex(Contents("pets", dict.fromkeys(names, 7)))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a/1.png", ["top/a/1.png"]),
        ("1.png", ["top/a/1.png", "top/b/1.png"]),
        ("b/1", ["top/b/1.png"]),
        ("2", []),
        ("2.x", ["top/b/2.x.png"]),
        (r"a\1.png", ["top/a/1.png"]),
        ("./a/./1.png", ["top/a/1.png"]),
        ("/a/1.png", []),
        ("c/1.png", []),
        ("a/" * MAX_PARTS + "1.png", []),
    ],
)
def test_an_image_is_found_by_the_end_of_its_path(value: str, found: list[str]) -> None:
    assert index("top/a/1.png", "top/b/1.png", "top/b/2.x.png", "top/a/1.txt").find(value, "labels.csv", None) == found


def test_of_several_images_those_of_the_split_are_meant() -> None:
    images = index("x/train/1.png", "x/test/1.png", "x/other/1.png")
    assert images.find("1.png", "labels.csv", "test") == ["x/test/1.png"]
    assert images.find("1.png", "labels.csv", None) == ["x/train/1.png"]
    assert len(images.find("1.png", "labels.csv", "validation")) == 3


def test_thousands_of_images_of_one_name_take_no_longer_than_others() -> None:
    """Looked through one by one for each row, they would take minutes."""
    images = index(*(f"images/{number}/0.jpg" for number in range(20_000)))
    assert all(images.find(f"{n}/0.jpg", "labels.csv", None) == [f"images/{n}/0.jpg"] for n in range(20_000))
