"""Finds the image that a table means."""

from __future__ import annotations

import posixpath
from collections import defaultdict

from tasks.vision.data.contents import Contents
from tasks.vision.data.names import may_be_image, split_of_path


class ImageIndex:
    """The images of a source by path, by the end of their path, and without their suffix, as Kaggle's IDs are."""

    def __init__(self, contents: Contents) -> None:
        self._paths = {path: name for name, path in contents.visible.items() if may_be_image(path)}
        self._files: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        for path in self._paths:
            file = path.rpartition("/")[2]
            self._files[file].append(path)
            self._stems[posixpath.splitext(file)[0]].append(path)

    def find(self, value: str, sheet: str, split: str | None) -> list[str]:
        """Return the names in the source of all images that `value` may mean; of several, those of the split."""
        value = posixpath.normpath(value.replace("\\", "/"))
        for path in (posixpath.normpath(posixpath.join(posixpath.dirname(sheet), value)), value):
            if path in self._paths:
                return [self._paths[path]]
        file = value.rpartition("/")[2]
        ends = [path for path in self._files[file] if f"/{path}".endswith(f"/{value}")] if file in self._files else []
        if not ends and file in self._stems:
            ends = [path for path in self._stems[file] if f"/{posixpath.splitext(path)[0]}".endswith(f"/{value}")]
        if len(ends) > 1:
            # A sheet without a word about splits is about the training images.
            ends = [path for path in ends if split_of_path(path) == (split or "train")] or ends
        return [self._paths[path] for path in ends]
