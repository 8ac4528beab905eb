"""What a layout makes of the files of a source, before it is checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.errors import DataError
from tasks.vision.data.records import Entry, Reason, Removal

HELD_OUT = ("validation", "test")


@dataclass
class Arrangement:
    """The images of a source with their class and split, and the files that are not used.

    Attributes:
        layout: in words.
        top: the folder that wraps the data set, with its slash; "" when nothing does.
        entries: the images, by their name in the source.
        removals: the files that are not images of the data set.
        classes: class names by split, including those without a usable image.
        folders: what the source calls its splits, for messages.
        notes: what else a reader should know.
        metadata: names in the source of the metadata files, by their path from `top`.
        values: metadata from label sheets in the order of `columns`, by image name.
        tables: the column with the images of every Parquet file, by its name in the source.
    """

    layout: str
    top: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    removals: list[Removal] = field(default_factory=list)
    classes: dict[str, set[str]] = field(default_factory=lambda: {"train": set(), "validation": set(), "test": set()})
    folders: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, entry: Entry) -> None:
        """Add one image."""
        self.entries[key] = entry
        self.classes[entry.split].add(entry.label)

    def leave_out(self, path: str, reason: Reason, detail: str = "", split: str = "", label: str = "") -> None:
        """Note one file that is not an image of the data set."""
        self.removals.append(Removal(path.removeprefix(self.top), split, label, reason, detail))

    def trainable(self) -> bool:
        """Tell whether there are classes to tell apart."""
        return len(self.classes["train"]) > 1

    def check(self, where: str) -> None:
        """Check that a classifier can be trained and measured.

        Raises:
            DataError: one class only, or other classes in validation or test than in train.
        """
        train = self.classes["train"]
        named = {split: self.folders.get(split, split) for split in self.classes}
        for split in HELD_OUT:
            held = self.classes[split]
            if held - train:
                raise DataError(
                    f"{where} has {_some(held - train)} only in {named[split]}/; add training images or remove them"
                )
            if held and train - held:
                raise DataError(
                    f"{where} has {_some(train - held)} only in {named['train']}/; add {split} images, "
                    f"or remove {named[split]}/ to have it split off"
                )
        if len(train) == 1:
            raise DataError(
                f"{where} has only the class {next(iter(train))!r}; a classifier needs two or more "
                "(classes in file names: set label_pattern)"
            )


def _some(classes: set[str]) -> str:
    names = sorted(classes)
    listed = ", ".join(repr(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
    return f"the class{'es' if len(names) > 1 else ''} {listed}"
