"""The layout of an image folder: `train/CLASS/*` and perhaps `test/CLASS/*`, bare or inside one top folder.

A `metadata.csv` may say more about the images (see `metadata`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from tasks.errors import DataError
from tasks.vision.data import metadata
from tasks.vision.data.records import Entry, Listing, Reason, Removal

SPLITS = ("train", "test")
SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUT = "train/CLASS/*.png (or .jpg) and perhaps test/CLASS/*"
_DRIVE = re.compile(r"^[A-Za-z]:")


def safe_name(name: str, where: str) -> str:
    """Return a path inside a source in its plain form (`./a//b` is `a/b`).

    Raises:
        DataError: the path leads out of the source, or is not UTF-8.
    """
    if name.startswith("/") or _DRIVE.match(name) or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise DataError(f"{where} holds the path {name!r}, which leads out of it; pack it again with relative paths")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds the file name {name!r}, which is not UTF-8; rename the file") from error
    return PurePosixPath(name).as_posix()


def arrange(
    names: Sequence[str], where: str, links: Sequence[str] = (), sheets: Mapping[str, bytes] | None = None
) -> Listing:
    """Find the images of every class among the files of a source.

    Args:
        names: plain relative paths of all files.
        where: what the user called the source, for messages.
        links: symbolic links, which are listed and never followed.
        sheets: content of the files named `metadata.csv`, by name; those outside of `metadata.PLACES` are ignored.

    Raises:
        DataError: no files, another layout, one class only, different classes in train and test, or metadata that
            cannot be used (see `metadata.attach`).
    """
    if not names:
        raise DataError(f"{where} is empty; it must hold {LAYOUT}")
    top = _top_folder(names, where)
    entries: dict[str, Entry] = {}
    removals = [Removal(link.removeprefix(top), "", "", Reason.LINK) for link in links]
    classes: dict[str, set[str]] = {split: set() for split in SPLITS}
    found: dict[str, bytes] = {}
    for name in names:
        inner = name.removeprefix(top)
        parts = inner.split("/")
        if inner in metadata.PLACES and name.startswith(top):
            found[inner] = (sheets or {})[name]
        elif any(part.startswith(".") or part == "__MACOSX" for part in parts):
            removals.append(Removal(inner, "", "", Reason.HIDDEN))
        elif len(parts) != 3 or parts[0] not in SPLITS:
            removals.append(Removal(inner, "", "", Reason.OUTSIDE))
        else:
            split, label, file = parts
            classes[split].add(label)
            suffix = PurePosixPath(file).suffix.lower()
            if suffix in SUFFIXES:
                entries[name] = Entry(inner, split, label)
            else:
                detail = f"{suffix or 'no suffix'}; supported: {', '.join(SUFFIXES)}"
                removals.append(Removal(inner, split, label, Reason.UNSUPPORTED, detail))
    _check(classes["train"], classes["test"], where)
    if not entries:
        raise DataError(f"{where} has no file that ends in {', '.join(SUFFIXES)}; convert the images")
    listing = Listing(len(names) + len(links), entries, tuple(removals), tuple(sorted(classes["train"])))
    return metadata.attach(listing, found, where)


def _top_folder(names: Sequence[str], where: str) -> str:
    """Return the folder that wraps the layout, with its slash; "" when nothing does."""
    if any(name.startswith(tuple(f"{split}/" for split in SPLITS)) for name in names):
        return ""
    tops = {parts[0] for name in names if len(parts := name.split("/")) > 2 and parts[1] == "train"}
    tops = {top for top in tops if not top.startswith(".") and top != "__MACOSX"}
    if len(tops) > 1:
        raise DataError(f"{where} holds several data sets ({', '.join(sorted(tops)[:5])}); give one of them as source")
    return f"{tops.pop()}/" if tops else ""


def _check(train: set[str], test: set[str], where: str) -> None:
    if not train and not test:
        raise DataError(f"{where} does not have the layout of an image folder; it must hold {LAYOUT}")
    if test - train:
        raise DataError(f"{where} has {_some(test - train)} only in test/; add training images or remove them")
    if test and train - test:
        raise DataError(
            f"{where} has {_some(train - test)} only in train/; add test images, or remove test/ to have it split off"
        )
    if len(train) < 2:
        raise DataError(f"{where} has only the class {next(iter(train))!r}; a classifier needs two or more")


def _some(classes: set[str]) -> str:
    names = sorted(classes)
    listed = ", ".join(repr(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
    return f"the class{'es' if len(names) > 1 else ''} {listed}"
