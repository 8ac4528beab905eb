from __future__ import annotations

from itertools import islice

import pytest
from mlflow.store.entities import PagedList

from tasks.records import paging


class Numbers:
    """A search that finds the numbers below `count`, and notes what it was asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[tuple[int, str | None]] = []

    def __call__(self, size: int, token: str | None) -> PagedList[int]:
        self.asked.append((size, token))
        first = int(token or 0)
        last = min(first + size, self.count)
        return PagedList(list(range(first, last)), str(last) if last < self.count else None)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE", 3)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_every_result_comes_once_and_in_order(count: int) -> None:
    assert list(paging.all_pages(Numbers(count))) == list(range(count))


def test_no_more_than_the_limit_is_asked_for() -> None:
    search = Numbers(9)
    assert list(paging.all_pages(search, limit=4)) == [0, 1, 2, 3]
    assert search.asked == [(3, None), (1, "3")]


def test_the_next_page_is_asked_for_only_when_it_is_needed() -> None:
    search = Numbers(9)
    assert list(islice(paging.all_pages(search), 2)) == [0, 1]
    assert len(search.asked) == 1
