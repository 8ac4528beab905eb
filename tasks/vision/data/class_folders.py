"""Layouts where a folder is a class: `train/CLASS/*` (with validation and test or without) and `CLASS/*`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tasks.errors import DataError
from tasks.vision.data import metadata
from tasks.vision.data.arrangement import HELD_OUT, Arrangement
from tasks.vision.data.contents import Contents
from tasks.vision.data.names import IMAGE_FOLDERS, may_be_image, split_of_folder, suffix
from tasks.vision.data.records import Entry, Reason

MAX_WRAPPERS = 32  # each level goes through all paths: thousands of folders inside each other would take hours
Below = Mapping[str, list[str]]
"""Paths below each folder of a level, by the name of the folder."""


@dataclass(frozen=True)
class Level:
    """The folder whose folders are splits or classes: its path with a slash, and the splits by the folder's name."""

    kind: Literal["splits", "classes"]
    top: str
    splits: Mapping[str, str] = field(default_factory=dict)


def arrange(contents: Contents, want: str = "auto", *, alone: bool = True) -> Arrangement | None:
    """Find the images by the folders that they lie in.

    Args:
        contents: the files of the source.
        want: `splits`, `classes` or `auto`.
        alone: whether nothing but folders can say the classes.

    Returns:
        None where no folders look like splits or classes, and where they look like several data sets but are not alone.

    Raises:
        DataError: the folders can be understood in two ways.
    """
    level = _find(contents, want, alone)
    if level is None:
        return None
    return _splits(contents, level) if level.kind == "splits" else _classes(contents, level)


def _find(contents: Contents, want: str, alone: bool) -> Level | None:
    """Go down from the top, through folders that only wrap, to the level of the splits or classes."""
    top, rest = "", list(contents.visible.values())
    for _ in range(MAX_WRAPPERS):
        folders = _below(rest)
        pictured = [name for name, paths in folders.items() if any(map(contents.is_picture, paths))]
        if want != "classes":
            splits = _split_folders(folders, pictured, contents, top)
            if splits:
                if want == "auto":
                    _refuse_both(folders, pictured, splits, contents)
                return Level("splits", top, splits)
            inside = [name for name in sorted(folders) if any(map(_in_train, folders[name]))]
            if len(inside) > 1:
                _refuse_several(contents, inside, alone)
                return None
            if inside:
                top, rest = f"{top}{inside[0]}/", folders[inside[0]]
                continue
        direct = [name for name in pictured if _holds_images(folders[name], contents.is_picture)]
        inner = _below(folders[pictured[0]]) if len(pictured) == 1 else {}
        wrapped = [name for name, paths in inner.items() if any(map(contents.is_picture, paths))]
        if len(pictured) == 1 and (not direct or len(wrapped) > 1):
            top, rest = f"{top}{pictured[0]}/", folders[pictured[0]]
        elif direct and want != "splits":
            return Level("classes", top)
        elif len(pictured) > 1 and not direct and want == "auto":
            _refuse_several(contents, pictured, alone)
            return None
        else:
            return None
    return None


def _split_folders(folders: Below, pictured: list[str], contents: Contents, top: str) -> dict[str, str]:
    """Return the split of each folder whose name means one; empty where no folder is called train.

    Without a train folder, `valid` and `invalid` could be two classes. But where all folders are held-out splits, the
    classes inside them are not for training.
    """
    splits = {name: split for name in folders if (split := split_of_folder(name))}
    if "train" not in splits.values() and not (pictured and set(pictured) <= set(splits)):
        return {}
    for split in set(splits.values()):
        same = sorted(name for name in splits if splits[name] == split and (split == "train" or name in pictured))
        if len(same) > 1:
            listed = " and ".join(f"{top}{name}/" for name in same)
            raise DataError(f"{contents.where} has {listed}, both for {split}; join them or move one away")
    return splits


def _refuse_both(folders: Below, pictured: list[str], splits: Mapping[str, str], contents: Contents) -> None:
    """Refuse folders that look like classes beside a train folder: either could be the data set.

    One folder of pictures, or few of them under other names, are examples or figures: they are left out, and said.
    """
    beside = [name for name in pictured if name not in splits and _holds_images(folders[name], contents.is_picture)]
    train = {path.partition("/")[0] for name in splits if splits[name] == "train" for path in folders[name]}
    count = sum(contents.is_picture(path) for name in beside for path in folders[name])
    total = sum(contents.is_picture(path) for paths in folders.values() for path in paths)
    if len(beside) > 1 and (train & set(beside) or 4 * count > total):
        trains = ", ".join(f"{name}/" for name in splits if splits[name] == "train")
        raise DataError(
            f"{contents.where} has both {trains} with classes in it and folders that look like classes beside it "
            f"({', '.join(sorted(beside)[:5])}); set layout to 'splits' for the first or 'classes' for the second, "
            "or move one away"
        )


def _splits(contents: Contents, level: Level) -> Arrangement:
    made = Arrangement("", level.top, folders={split: name for name, split in level.splits.items()})
    placed: list[tuple[str, str, str, str]] = []  # name in the source, path from the top, split, class
    loose: list[tuple[str, str]] = []  # path and split of files outside any class folder
    nested = False
    for name, path in contents.visible.items():
        inner = path.removeprefix(level.top)
        if not path.startswith(level.top):
            made.leave_out(path, Reason.OUTSIDE)
        elif metadata.is_place(inner):
            made.metadata[inner] = name
        elif (split := level.splits.get(inner.partition("/")[0])) is None:
            made.leave_out(path, Reason.OUTSIDE)
        elif label := _class_of(inner.split("/")[1:]):
            placed.append((name, inner, split, label))
            nested = nested or inner.count("/") > 2
        else:
            loose.append((path, split))
    labels: dict[str, set[str]] = defaultdict(set)
    for _, _, split, label in placed:
        labels[split].add(label)
    unlabelled = {split for split in HELD_OUT if _has_no_labels(labels[split], labels["train"])}
    lost = dict.fromkeys(HELD_OUT, 0)
    for path, split in loose:
        if split in unlabelled and contents.is_picture(path):
            lost[split] += 1
            made.leave_out(path, Reason.UNLABELLED, split=split)
        else:
            made.leave_out(path, Reason.OUTSIDE)
    for name, inner, split, label in placed:
        if split in unlabelled:
            lost[split] += 1
            made.leave_out(inner, Reason.UNLABELLED, split=split)
        else:
            made.classes[split].add(label)
            _add(made, name, inner, split, label)
    made.notes += [
        f"{made.folders[split]}/ has no labels and is not used (files: {count})"
        for split, count in lost.items()
        if count
    ]
    shown = ", ".join(f"{made.folders[split]}/" for split in made.classes if made.classes[split])
    made.layout = f"class folders in {shown}" + (", with a folder of images in each class" if nested else "")
    return made


def _has_no_labels(held: set[str], train: set[str]) -> bool:
    """Tell whether a held-out split has no folder for classes, or a single one that train does not have."""
    return bool(train) and len(held) < 2 and held.isdisjoint(train)


def _classes(contents: Contents, level: Level) -> Arrangement:
    made = Arrangement("", level.top)
    placed: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, path in contents.visible.items():
        inner = path.removeprefix(level.top)
        if path.startswith(level.top) and inner in metadata.NAMES:
            made.metadata[inner] = name
        elif path.startswith(level.top) and (label := _class_of(inner.split("/"))):
            placed[label].append((name, inner))
        else:
            made.leave_out(path, Reason.OUTSIDE)
    for label, files in placed.items():
        is_class = any(may_be_image(path) for _, path in files)
        for name, inner in files:
            if is_class:
                made.classes["train"].add(label)
                _add(made, name, inner, "train", label)
            else:  # a folder of documents
                made.leave_out(inner, Reason.OUTSIDE)
    made.layout = f"class folders in {level.top or 'the top folder'}"
    return made


def _add(made: Arrangement, name: str, inner: str, split: str, label: str) -> None:
    if may_be_image(inner):
        made.add(name, Entry(inner, split, label))
    else:
        made.leave_out(inner, Reason.UNSUPPORTED, f"{suffix(inner)} files are not images", split, label)


def _class_of(parts: list[str]) -> str | None:
    """Return the class of a file by its path from the split's folder: CLASS/file or CLASS/images/file."""
    if len(parts) == 2 or (len(parts) == 3 and parts[1].lower() in IMAGE_FOLDERS):
        return parts[0]
    return None


def _below(paths: Iterable[str]) -> dict[str, list[str]]:
    """Group paths by their first folder."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, slash, rest = path.partition("/")
        if slash:
            folders[folder].append(rest)
    return dict(folders)


def _in_train(path: str) -> bool:
    return any(split_of_folder(folder) == "train" for folder in path.split("/")[:-1])


def _holds_images(paths: Iterable[str], is_picture: Callable[[str], bool]) -> bool:
    """Tell whether a folder looks like a class: pictures lie in it, or in its folder of images."""
    return any(is_picture(path) and _class_of(["", *path.split("/")]) is not None for path in paths)


def _refuse_several(contents: Contents, names: list[str], alone: bool) -> None:
    if alone:
        listed = ", ".join(sorted(names)[:5])
        raise DataError(f"{contents.where} holds several data sets ({listed}); give one of them as source")
