"""The layout of a label sheet: a table (CSV, TSV or JSON Lines) with a column of file names and one of labels.

`metadata.csv` of Hugging Face's ImageFolder with a column of labels is one, and so is Kaggle's `labels.csv` with IDs
instead of file names.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.errors import DataError
from tasks.vision.data import metadata, tables
from tasks.vision.data.arrangement import HELD_OUT, Arrangement
from tasks.vision.data.contents import Contents, LayoutOptions
from tasks.vision.data.image_index import ImageIndex
from tasks.vision.data.names import MAX_LABEL, may_be_image, split_of_file, split_of_folder, split_of_path
from tasks.vision.data.records import Entry, Reason
from tasks.vision.data.sheet_values import SheetValues
from tasks.vision.data.tables import Place, Row

FILE_COLUMNS = (
    *("file_name", "filename", "file", "image_path", "file_path", "path", "image_file", "image_name", "image_id"),
    *("image", "img_path", "img_name", "img", "id", "name"),
)
LABEL_COLUMNS = (
    *("label", "class", "class_name", "label_name", "category", "category_name", "target", "breed", "species"),
    *("labels", "diagnosis", "y"),
)
SPLIT_COLUMNS = ("split", "subset", "data_set", "set", "partition")
SHOWN = 3  # tables in a message
EXAMPLE_SHEET = "submission"  # Kaggle's sample_submission.csv has invented labels


@dataclass(frozen=True)
class Sheet:
    """A table that can give labels: its name in the source, its path, and the columns to use."""

    name: str
    path: str
    file: str
    label: str
    split: str | None
    columns: tuple[str, ...]


def find(contents: Contents, options: LayoutOptions, *, required: bool) -> list[Sheet]:
    """Find the tables with a column of file names and one of labels, sorted by path.

    Args:
        contents: the files of the source.
        options: the names of the columns, where they are given.
        required: whether the labels have to come from a sheet.

    Raises:
        DataError: a table that is needed cannot be read, or there is none with such columns.
    """
    files = (options.file_column,) if options.file_column else FILE_COLUMNS
    labels = (options.label_column,) if options.label_column else LABEL_COLUMNS
    found: list[Sheet] = []
    seen: list[str] = []
    for name, path in sorted(contents.visible.items(), key=lambda item: item[1]):
        if name not in contents.sheets or EXAMPLE_SHEET in path.rpartition("/")[2].lower():
            continue
        try:
            columns = tables.read(path, contents.sheets[name], contents.where).columns
        except DataError:
            if required:
                raise
            continue
        if len(seen) < SHOWN:
            seen.append(f"{path} ({', '.join(map('{!r:.80}'.format, columns[:8])) or 'empty'})")
        label = tables.pick(columns, labels)
        file = tables.pick([column for column in columns if column != label], files)
        if file is not None and label is not None:
            split = tables.pick([column for column in columns if column not in (file, label)], SPLIT_COLUMNS)
            found.append(Sheet(name, path, file, label, split, columns))
    if required and not found:
        raise DataError(
            f"{contents.where} has no CSV, TSV or JSONL file with "
            f"{f'the column {options.file_column!r}' if options.file_column else 'a column of file names'} and "
            f"{f'the column {options.label_column!r}' if options.label_column else 'one of labels'} "
            f"among {', '.join(seen) or 'none'}; set file_column and label_column"
        )
    return found


def arrange(contents: Contents, sheets: Sequence[Sheet]) -> Arrangement:
    """Take class and split of every image from its row.

    Raises:
        DataError: a row has no label, names no file, or one that has another label elsewhere. Nothing is decoded yet.
    """
    _require_one_data_set(contents, sheets)
    made = Arrangement(f"labels from {', '.join(sheet.path for sheet in sheets[:3])}")
    made.layout += ", …" if len(sheets) > 3 else ""
    files = ImageIndex(contents)
    rows: dict[str, tuple[str, str, Place]] = {}  # label, split and place, by the file's name in the source
    values = SheetValues(contents.where, contents.total_bytes)
    for sheet in sheets:
        others = tuple(name for name in sheet.columns if name not in (sheet.file, sheet.label, sheet.split, ""))
        is_metadata = sheet.path.rpartition("/")[2] in metadata.NAMES
        if is_metadata:
            values.add_columns(others, Place(f"{contents.where}: {sheet.path}", 1))
        for name, label, split, row in _labelled(contents, sheet, files):
            if name in rows and rows[name][:2] != (label, split):
                raise DataError(
                    f"{row.place}: {contents.visible[name]!r} has another row in {rows[name][2]}, "
                    f"with label {rows[name][0]!r} and split {rows[name][1]!r}; remove one"
                )
            rows[name] = (values.share(label, row.place), split, row.place)
            if is_metadata:
                values.keep(name, row, others)
    made.top = _common_folder([contents.visible[name] for name in rows] + [sheet.path for sheet in sheets])
    used = {sheet.name for sheet in sheets}
    lost = dict.fromkeys(HELD_OUT, 0)
    for name, path in contents.visible.items():
        if name in rows:
            label, split, _ = rows[name]
            made.add(name, Entry(path.removeprefix(made.top), split, label))
        elif name in used:
            continue
        elif may_be_image(path):
            split = split_of_path(path) or ""
            held = split in HELD_OUT
            if held:
                lost[split] += 1
            made.leave_out(path, Reason.UNLABELLED if held else Reason.NO_LABEL, "no row in a label sheet", split)
        else:
            made.leave_out(path, Reason.OUTSIDE)
    made.columns = values.columns
    made.values = {made.entries[name].name: row for name, row in values.by_image().items()}
    made.notes += [f"images of {split} without a row, not used: {count}" for split, count in lost.items() if count]
    return made


def _require_one_data_set(contents: Contents, sheets: Sequence[Sheet]) -> None:
    """Refuse sheets in several folders, unless these are the splits of one data set."""
    folders = {
        "/".join(folder for folder in sheet.path.split("/")[:-1] if not split_of_folder(folder)): sheet.path
        for sheet in sheets
    }
    if len(folders) > 1:
        raise DataError(
            f"{contents.where} has label sheets of several data sets ({', '.join(sorted(folders.values())[:5])}); "
            "give one of them as source, or move one away"
        )


def disagreeing(contents: Contents, sheets: Sequence[Sheet], folders: Arrangement) -> Sheet | None:
    """Return the first sheet that divides the images into other classes than their folders do; None where none does.

    Labels may be numbers where the folders have names. Rows that name no image in the folders do not count. Neither
    does a `metadata.csv` whose labels are not class names: its values are slices of the classes.
    """
    files = ImageIndex(contents)
    for sheet in sheets:
        to_folder: dict[str, str] = {}  # the first of each: millions of rows may each have another label
        to_sheet: dict[str, str] = {}
        differs = names_a_class = False
        try:
            for row in tables.read(sheet.path, contents.sheets[sheet.name], contents.where).rows:
                names = files.find(row.values.get(sheet.file, ""), sheet.path, None)
                label = row.values.get(sheet.label, "")
                if len(names) == 1 and label and (entry := folders.entries.get(names[0])):
                    names_a_class = names_a_class or label in folders.classes["train"]
                    if not differs:
                        one = to_folder.setdefault(label, entry.label) == entry.label
                        differs = not one or to_sheet.setdefault(entry.label, label) != label
        except DataError:
            continue  # the folders are enough
        if differs:
            is_metadata = sheet.path.rpartition("/")[2] in metadata.NAMES
            if names_a_class or not is_metadata:
                return sheet
    return None


def unlabelled(contents: Contents, folders: Arrangement) -> str | None:
    """Return the path of a table that names images but has no column known as labels; None where there is none."""
    files = ImageIndex(contents)
    for name, path in sorted(contents.visible.items(), key=lambda item: item[1]):
        if name not in contents.sheets or path.rpartition("/")[2] in metadata.NAMES:
            continue
        try:
            table = tables.read(path, contents.sheets[name], contents.where)
            row = next(table.rows, None)
        except DataError:
            continue
        file = tables.pick(table.columns, FILE_COLUMNS)
        if row and file and len(table.columns) > 1 and tables.pick(table.columns, LABEL_COLUMNS) is None:
            found = files.find(row.values.get(file, ""), path, None)
            if len(found) == 1 and found[0] in folders.entries:
                return path
    return None


def _labelled(contents: Contents, sheet: Sheet, files: ImageIndex) -> Iterator[tuple[str, str, str, Row]]:
    """Yield the name in the source, label, split and row of every image in a sheet."""
    named = split_of_file(sheet.path)
    for row in tables.read(sheet.path, contents.sheets[sheet.name], contents.where).rows:
        image, label = row.values.get(sheet.file, ""), " ".join(row.values.get(sheet.label, "").split())
        if not image:
            raise DataError(f"{row.place}: {sheet.file} is empty; fill it in or remove the line")
        if not label:
            raise DataError(f"{row.place}: {sheet.label} is empty for {image!r}; fill it in or remove the line")
        if len(label) > MAX_LABEL:
            raise DataError(
                f"{row.place}: {sheet.label} has {len(label)} characters, over {MAX_LABEL}; set label_column"
            )
        told = named
        if sheet.split:
            word = row.values.get(sheet.split, "")
            told = split_of_folder(word)
            if told is None:
                raise DataError(f"{row.place}: {sheet.split} {word!r} is not a split; write train, validation or test")
        names = files.find(image, sheet.path, told)
        if len(names) != 1:
            several = " or ".join(sorted(contents.visible[name] for name in names[:3]))
            raise DataError(
                f"{row.place}: {sheet.file} {image!r} is "
                + (f"ambiguous: {several}; write the path" if names else "not a file of the source; correct it")
                + " or remove the line"
            )
        yield names[0], label, told or split_of_path(contents.visible[names[0]]) or "train", row


def _common_folder(paths: Sequence[str]) -> str:
    """Return the folder that wraps all paths, with its slash, and no folder of a split."""
    folders = posixpath.commonpath([posixpath.dirname(path) for path in paths]).split("/") if paths else []
    kept: list[str] = []
    for folder in folders:
        if not folder or split_of_folder(folder):
            break
        kept.append(f"{folder}/")
    return "".join(kept)
