"""Reads all that an MLflow search finds, a page at a time, while others write.

MLflow's page tokens are offsets into a search that is made anew for each page: what is deleted meanwhile moves the rest
forward, so that something is never seen; what is added in front is a repetition. So no tokens here: a page begins at
the position where the page before ended, and positions (a start time, a version number) never change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

from mlflow.store.entities import PagedList

from tasks.errors import DataError

Found = TypeVar("Found")
FEW = 10  # results on the first page of a search that is mostly answered by the first results
PAGE = 1000  # results on a page
MOST = 50_000  # that MLflow puts on one page of runs


def all_pages(
    search: Callable[[int, int | None], PagedList[Found]],
    position: Callable[[Found], int],
    identity: Callable[[Found], Hashable],
    first: int = PAGE,
) -> Iterator[Found]:
    """Yield what a search finds, each result once, asking for the next page only when it is needed.

    What exists from the first page to the last is found, whatever is added or deleted meanwhile.

    Args:
        search: takes the most results wanted and the position to begin at (None: at the first result), and returns the
            results from there on, those at that position included, in the order of positions.
        position: where a result is in that order; results may share one.
        identity: what tells a result from all others.
        first: results on the first page; each page has ten times as many as the one before, up to `PAGE`.

    Raises:
        DataError: more results share a position than MLflow puts on a page.
    """
    size = first
    begin: int | None = None
    seen = set[Hashable]()
    while True:
        page = search(size, begin)
        yield from (found for found in page if identity(found) not in seen)
        if not page.token:
            return
        last = position(page[-1])
        if last == begin and size >= MOST:
            raise DataError(f"MLflow has over {MOST} results at the same position {last}; not all can be read")
        # A page that ends where it began holds results of one position only: a larger one gets past it.
        size = min(size * 10, MOST if last == begin else PAGE)
        begin = last
        seen = {identity(found) for found in page if position(found) == last}
