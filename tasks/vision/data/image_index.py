"""Finds the image that a row of a table names."""

from __future__ import annotations

import posixpath
from collections import defaultdict

from tasks.vision.data.contents import Contents
from tasks.vision.data.names import may_be_image, split_of_path

MAX_PARTS = 32  # of a path in a table: there is an index for each number of parts


class ImageIndex:
    """The images of a source by path, by the end of their path, and without their suffix, as Kaggle's IDs are."""

    def __init__(self, contents: Contents) -> None:
        self._paths = {path: name for name, path in contents.visible.items() if may_be_image(path)}
        self._ends: dict[tuple[int, bool], dict[str, list[str]]] = {}
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
        count = value.count("/") + 1
        if count > MAX_PARTS:
            return []
        if (count, suffix) not in self._ends:
            ends: dict[str, list[str]] = defaultdict(list)
            for path in self._paths:
                parts = path.rsplit("/", count)[-count:]
                if len(parts) == count:
                    end = "/".join(parts)
                    ends[end if suffix else posixpath.splitext(end)[0]].append(path)
            self._ends[count, suffix] = dict(ends)
        return self._ends[count, suffix].get(value, [])
