"""MLflow answers a search page by page; here all pages come as one sequence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from mlflow.store.entities import PagedList

Found = TypeVar("Found")
PAGE = 1000  # results in one answer


def all_pages(search: Callable[[int, str | None], PagedList[Found]], limit: int = sys.maxsize) -> Iterator[Found]:
    """Yield what a search finds, asking for the next page only when it is needed.

    Args:
        search: takes the most results wanted and the token of the page (None for the first), and returns the page.
        limit: the most results to yield.
    """
    token: str | None = None
    while limit > 0:
        page = search(min(PAGE, limit), token)
        yield from page
        limit -= len(page)
        token = page.token
        if not token:
            return
