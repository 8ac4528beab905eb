"""Understands the layout of a source: which files are images, and the class and split of each.

The layouts are folders that are splits or classes (`class_folders`), a table of labels (`label_sheet`), Parquet files
(`parquet_layout`) and labels in file names (`name_pattern`). A `metadata.csv` adds facts about images (`metadata`).
"""

from __future__ import annotations

from tasks.errors import DataError
from tasks.vision.data import class_folders, label_sheet, metadata, name_pattern, parquet_layout
from tasks.vision.data.arrangement import Arrangement
from tasks.vision.data.contents import Contents, LayoutOptions
from tasks.vision.data.records import Listing, Reason, Removal

LAYOUT = "train/CLASS/* or CLASS/* with images, a table of labels beside images, or Parquet files"


def arrange(contents: Contents, options: LayoutOptions | None = None) -> Listing:
    """Find the images of every class among the files of a source.

    Raises:
        DataError: no files, no layout or two that differ, one class only, different classes in the splits, a label
            sheet with unknown files or missing labels, or metadata that cannot be used (see `metadata.attach`).
    """
    try:
        if not contents.paths:
            raise DataError(f"{contents.where} is empty; it must hold {LAYOUT}")
        made = _understand(contents, options or LayoutOptions())
        made.check(contents.where)
        if not made.entries:
            raise DataError(f"{contents.where} has no images in {made.layout}; it must hold {LAYOUT}")
    except DataError as error:
        if not contents.links:
            raise
        link, why = next(iter(contents.links.items()))  # perhaps what is missing lies behind this link
        raise DataError(f"{error}; a link could not be followed: {link!r} {why}") from error
    return _listing(contents, made)


def _understand(contents: Contents, options: LayoutOptions) -> Arrangement:
    """Choose the layout: the one that is asked for, else the one that is there."""
    layout = options.layout
    if layout == "auto" and options.label_pattern:
        layout = "names"
    if layout == "auto" and (options.file_column or options.label_column):
        layout = "parquet" if contents.parquets else "sheet"
    if layout == "names":
        return name_pattern.arrange(contents, options.label_pattern or "")
    if layout == "parquet":
        if not contents.parquets:
            raise DataError(f"{contents.where} has no .parquet file; set layout to 'auto' or give another source")
        return parquet_layout.arrange(contents)
    if layout == "sheet":
        return label_sheet.arrange(contents, label_sheet.find(contents, options, required=True))
    if layout == "auto":
        return _recognize(contents, options)
    made = class_folders.arrange(contents, layout)
    if made is None:
        kind = "train/CLASS/*" if layout == "splits" else "CLASS/*"
        raise DataError(f"{contents.where} has no folders as in {kind}; set layout to 'auto' or give another source")
    return made


def _recognize(contents: Contents, options: LayoutOptions) -> Arrangement:
    sheets = label_sheet.find(contents, options, required=False)
    readable = any(not isinstance(columns, DataError) for columns in contents.parquets.values())
    folders = class_folders.arrange(contents, alone=not sheets and not readable)
    if folders is not None and not folders.trainable() and (sheets or readable):
        folders = None
    kind = "splits" if folders and folders.folders else "classes"
    if readable:
        images = contents.by_suffix  # a sheet without images beside it is not a second data set
        other = "class folders" if folders else f"the label sheet {sheets[0].path}" if sheets and images else ""
        if other:
            raise DataError(
                f"{contents.where} has both Parquet files and {other}; "
                f"set layout to 'parquet' or '{kind if folders else 'sheet'}', or move one away"
            )
    if readable or (contents.parquets and not folders and not sheets):
        return parquet_layout.arrange(contents)
    if folders is not None:
        sheet = label_sheet.disagreeing(contents, sheets, folders)
        if sheet is not None:
            raise DataError(
                f"{contents.where} has both {folders.layout} and a label sheet, {sheet.path} (column {sheet.label!r}), "
                f"which disagree; set layout to '{kind}' or 'sheet', or move one away"
            )
        table = label_sheet.unlabelled(contents, folders) if kind == "classes" else None
        if table:  # the folders may be mere parts of a download
            folders.notes.append(f"{table} names images too: if the labels are there, set label_column")
    elif sheets:
        return label_sheet.arrange(contents, sheets)
    if folders is None or not any(folders.classes.values()):
        raise DataError(f"{contents.where} does not have the layout of an image folder; it must hold {LAYOUT}")
    return folders


def _listing(contents: Contents, made: Arrangement) -> Listing:
    sizes = {entry.name: contents.sizes[key] for key, entry in made.entries.items() if key in contents.sizes}
    outside = {path.removeprefix(made.top): contents.sizes[name] for name, path in contents.visible.items()}
    removals = [_copy(removal, sizes, outside) for removal in made.removals]
    for name, path in contents.paths.items():
        if name not in contents.visible:
            removals.append(Removal(path.removeprefix(made.top), "", "", Reason.HIDDEN))
    removals += [Removal(link.removeprefix(made.top), "", "", Reason.LINK, why) for link, why in contents.links.items()]
    copies = sum(removal.reason is Reason.COPY for removal in removals)
    listing = Listing(
        len(contents.paths) + len(contents.links) + (len(made.entries) - len(made.tables) if made.tables else 0),
        made.entries,
        tuple(removals),
        tuple(sorted(made.classes["train"])),
        layout=made.layout,
        notes=(*made.notes, *([f"files of a second copy of the data set, not used: {copies}"] if copies else [])),
        tables=made.tables,
        junk=len(contents.sizes) - len(contents.paths),
    )
    if made.columns:
        return metadata.with_values(listing, made.columns, made.values)
    sheets = {inner: contents.sheets[name] for inner, name in made.metadata.items()}
    return metadata.attach(listing, sheets, contents.where, contents.total_bytes)


def _copy(removal: Removal, sizes: dict[str, int], outside: dict[str, int]) -> Removal:
    """Say of a file outside the layout that it is in a copy of the data set, as Kaggle's chest_xray/chest_xray is."""
    folder, _, inner = removal.name.partition("/")
    if removal.reason is not Reason.OUTSIDE or inner not in sizes or outside.get(removal.name) != sizes[inner]:
        return removal
    return Removal(removal.name, "", "", Reason.COPY, f"of {inner}, in {folder}/")
