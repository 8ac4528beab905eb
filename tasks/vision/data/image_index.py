"""Finds the image that a row of a table names."""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property

from tasks.vision.data.contents import Contents
from tasks.vision.data.names import may_be_image, split_of_path

MAX_PARTS = 32  # of a path in a table


class ImageIndex:
    """The images of a source by path, by the end of their path, and without their suffix, as Kaggle's IDs are."""

    def __init__(self, contents: Contents) -> None:
        self._paths = {path: name for name, path in contents.visible.items() if may_be_image(path)}
        self._chosen: dict[tuple[str, str | None], list[str]] = {}

    def find(self, value: str, sheet: str, split: str | None) -> list[str]:
        """Return the names in the source of all images that `value` may mean; of several, those of the split."""
        value = posixpath.normpath(value.replace("\\", "/"))
        for path in (posixpath.normpath(posixpath.join(posixpath.dirname(sheet), value)), value):
            if path in self._paths:
                return [self._paths[path]]
        key = (value, split)
        if key not in self._chosen:
            ends = self._ending(value, suffix=True) or self._ending(value, suffix=False)
            if len(ends) > 1:
                # A sheet without a word about splits is about the training images.
                ends = [path for path in ends if split_of_path(path) == (split or "train")] or ends
            if not ends:
                return []
            self._chosen[key] = [self._paths[path] for path in ends]
        return self._chosen[key]

    def _ending(self, value: str, *, suffix: bool) -> list[str]:
        """Return the paths that end with the parts of `value`: `7/1.png` is the end of `images/7/1.png`."""
        if value.count("/") >= MAX_PARTS:
            return []
        return list(_beginning(_backwards(value), self._with_suffix if suffix else self._without_suffix))

    @cached_property
    def _with_suffix(self) -> list[tuple[str, str]]:
        return sorted((_backwards(path), path) for path in self._paths)

    @cached_property
    def _without_suffix(self) -> list[tuple[str, str]]:
        return sorted((_backwards(posixpath.splitext(path)[0]), path) for path in self._paths)


def _backwards(path: str) -> str:
    """Return the parts of a path from the last to the first, so that equal ends are neighbours when sorted."""
    return "/".join(reversed(path.split("/")))


def _beginning(start: str, ends: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the paths whose parts backwards are `start`, or go on after it."""
    place = bisect_left(ends, (start,))
    while place < len(ends) and ends[place][0] == start:
        yield ends[place][1]
        place += 1
    place = bisect_left(ends, (f"{start}/",), place)
    while place < len(ends) and ends[place][0].startswith(f"{start}/"):
        yield ends[place][1]
        place += 1
