"""Reading all pages: nothing is lost or repeated, whatever happens between two of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice

import pytest
from mlflow.store.entities import PagedList

from tasks.errors import DataError
from tasks.records import paging

Item = tuple[int, str]  # position, identity


class Search:
    """A search as MLflow makes it over `items`, and what it was asked for; `between` is called before each page."""

    def __init__(self, items: list[Item], between: Callable[[list[Item]], None] = lambda items: None) -> None:
        self.items = items
        self.between = between
        self.asked: list[tuple[int, int | None]] = []

    def __call__(self, size: int, begin: int | None) -> PagedList[Item]:
        if self.asked:
            self.between(self.items)
        self.asked.append((size, begin))
        found = sorted(item for item in self.items if begin is None or item[0] >= begin)
        return PagedList(found[:size], "an offset" if len(found) > size else None)


def read(search: Search, first: int = 3, most: int | None = None) -> list[Item]:
    pages = paging.all_pages(search, lambda item: item[0], lambda item: item[1], first)
    return list(islice(pages, most))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE", 3)
    monkeypatch.setattr(paging, "MOST", 12)


@pytest.mark.parametrize("number", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("alike", [1, 2, 3])
def test_every_result_comes_once_and_in_order(number: int, alike: int) -> None:
    items = [(i // alike, f"{i:02}") for i in range(number)]
    assert read(Search(items)) == items


@pytest.mark.parametrize("first", [1, 3])
def test_more_results_at_one_position_than_fit_a_page(first: int) -> None:
    items = [(0, "a"), *((1, f"{i:02}") for i in range(9)), (2, "z")]
    assert read(Search(items), first) == items


def test_more_results_at_one_position_than_mlflow_can_answer_are_no_silent_limit() -> None:
    with pytest.raises(DataError, match="over 12 results at the same position 1"):
        read(Search([(1, f"{i:02}") for i in range(14)]))


def test_what_is_deleted_meanwhile_hides_nothing_else() -> None:
    """With MLflow's tokens, which are offsets, the first of the next page would move to the page that was read."""
    items = [(i, f"{i:02}") for i in range(9)]
    assert read(Search(items[:], lambda left: left.pop(0) and None)) == items


def test_what_is_added_meanwhile_repeats_nothing() -> None:
    items, fresh = [(i, f"{i:02}") for i in range(9)], count()
    found = read(Search(items[:], lambda all_: all_.insert(0, (-1, f"new {next(fresh)}"))))
    assert found == items


def test_the_next_page_is_asked_for_only_when_it_is_needed() -> None:
    search = Search([(i, f"{i:02}") for i in range(9)])
    assert len(read(search, most=2)) == 2
    assert search.asked == [(3, None)]


def test_pages_grow_so_that_the_first_results_come_fast() -> None:
    search = Search([(i, f"{i:02}") for i in range(9)])
    read(search, first=1)
    assert [size for size, _ in search.asked[:3]] == [1, 3, 3]
