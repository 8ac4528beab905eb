from __future__ import annotations

import pytest

from tasks.errors import DataError
from tasks.vision.data.links import follow

FILES = {"a/1", "a/b/2", "c/3"}


def followed(**links: str) -> tuple[dict[str, str], dict[str, str]]:
    return follow({name.replace("_", "/"): target for name, target in links.items()}, FILES, "pets", 100)


@pytest.mark.parametrize(
    ("link", "target", "aliases"),
    [
        ("x", "a/1", {"x": "a/1"}),
        ("c_x", "../a/1", {"c/x": "a/1"}),
        ("c_x", "./../a//b/./2", {"c/x": "a/b/2"}),
        ("x", "a", {"x/1": "a/1", "x/b/2": "a/b/2"}),
        ("c_x", "../a/b", {"c/x/2": "a/b/2"}),
    ],
)
def test_a_link_stands_for_the_files_behind_it(link: str, target: str, aliases: dict[str, str]) -> None:
    assert followed(**{link: target}) == (aliases, {})


def test_links_may_lead_through_links() -> None:
    aliases, broken = followed(x="y", y="z/1", z="a", w="x")
    assert {name: aliases[name] for name in "xyw"} == dict.fromkeys("xyw", "a/1")
    assert broken == {}


def test_a_parent_is_that_of_the_folder_not_of_the_link() -> None:
    assert followed(c_deep="../a/b", x="c/deep/../1")[0]["x"] == "a/1"


def test_a_file_stays_where_a_link_has_its_name() -> None:
    assert followed(a_1="../a/1", x="a/1") == ({"x": "a/1"}, {})


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/etc/passwd", "outside of the source"),
        ("../secret", "outside of the source"),
        ("a/../../secret", "outside of the source"),
        ("x", "in a circle"),
        ("nowhere", "is not there"),
        ("a/1/2", "is not there"),
        (".", "a folder that holds the link itself"),
        ("", "a folder that holds the link itself"),
    ],
)
def test_a_link_that_leads_to_no_file_is_named(target: str, why: str) -> None:
    aliases, broken = followed(x=target)
    assert aliases == {}
    assert why in broken["x"]
    assert "cp -rL, tar -h" in broken["x"]


def test_folders_that_link_to_each_other_end() -> None:
    aliases, broken = followed(a_up="../c", c_up="../a")
    assert aliases["a/up/3"] == "c/3"
    assert aliases["c/up/b/2"] == "a/b/2"
    assert len(aliases) < 20
    assert broken == {}


def test_links_that_multiply_are_refused() -> None:
    links = {f"d{level}/{name}": f"../d{level + 1}" for level in range(40) for name in "xy"}
    with pytest.raises(DataError, match="pets has links that stand for over 100 files and folders; replace"):
        follow(links, {"d40/1"}, "pets", 100)
