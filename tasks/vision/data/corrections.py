"""Corrections of labels by a person: a table with the columns `file` and `label`.

An edited suspected_labels.csv is one.
They are applied between listing and reading: an image gets another class, or is left out where the label is empty.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from tasks.errors import DataError
from tasks.vision.data import tables
from tasks.vision.data.limits import MIB
from tasks.vision.data.names import normal
from tasks.vision.data.records import Content, Entry, Listing, Reason, Removal
from tasks.vision.data.sources import Source

FILE, LABEL = "file", "label"
MAX_BYTES = 64 * MIB
EXAMPLES = 3
SHOWN = 100  # characters of a cell in a message
COMPARED = 20_000  # names among which a similar one is looked for


@dataclass(frozen=True)
class Correction:
    """The label that an image gets, "" to leave it out; `place` is file and line, for messages."""

    label: str
    place: str


@dataclass(frozen=True)
class Corrections:
    """A table of corrections.

    Attributes:
        where: what the user called it, for messages.
        sha256: hex digest of its bytes.
        by_file: a correction for each image, by its name.
    """

    where: str
    sha256: str
    by_file: Mapping[str, Correction]


def parse(where: str, data: bytes) -> Corrections:
    """Read a table of corrections: CSV with commas or semicolons, TSV or JSON Lines; other columns are ignored.

    Raises:
        DataError: it is not such a table, lacks a column, has no rows, or corrects a file in two ways.
    """
    table = tables.read(where, data, "corrections")
    columns = {}
    for name in (FILE, LABEL):
        found = [column for column in table.columns if tables.pick([column], [name])]
        if len(found) != 1:
            have = ", ".join(map(_shown, table.columns[:8])) or "none"
            raise DataError(
                f"{table.place}: {len(found) or 'no'} column{'s' if found else ''} {name!r} (columns: {have}); "
                f"it needs one column {FILE!r} and one {LABEL!r}"
            )
        columns[name] = found[0]
    by_file: dict[str, Correction] = {}
    for row in table.rows:
        file, label = row.values.get(columns[FILE], ""), row.values.get(columns[LABEL], "")
        if not any(row.values.values()):
            continue  # a spreadsheet leaves such lines behind
        if not file:
            raise DataError(f"{row.place}: {FILE} is empty; fill it in or remove the line")
        known = by_file.setdefault(file, Correction(label, str(row.place)))
        if known.label != label:
            raise DataError(
                f"{row.place}: {_shown(file)} gets label {_shown(label)}, but {_shown(known.label)} in {known.place}; "
                "remove one"
            )
    if not by_file:
        raise DataError(f"{table.place}: no line with a correction; set no corrections where there are none")
    return Corrections(where, hashlib.sha256(data).hexdigest(), by_file)


@dataclass
class CorrectedSource:
    """A source with corrections applied to its listing and its images; its digest is that of the source itself.

    Attributes:
        dataset: the data set's name.
        source: as it was opened.
        listing: with the corrected classes, and without the images that are left out.
        entries: what becomes of an entry that is corrected, by name and split; None where it is left out.
    """

    dataset: str
    source: Source
    listing: Listing
    entries: Mapping[tuple[str, str], Entry | None]

    @property
    def channels(self) -> int:
        """As those of the source."""
        return self.source.channels

    @property
    def side(self) -> int:
        """As that of the source."""
        return self.source.side

    def digest(self) -> str:
        """Return the SHA-256 of the source."""
        return self.source.digest()

    def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        """Yield the images that are used, with their corrected class."""
        for entry, reader in self.source.read():
            corrected = self.entries.get((entry.name, entry.split), entry)
            if corrected is not None:
                yield corrected, reader


def apply(corrections: Corrections, source: Source) -> CorrectedSource:
    """Give images their corrected class, or leave them out; nothing is read yet.

    Raises:
        DataError: the table names a file that is no image of the source, or a label that is none of its classes.
    """
    listing = source.listing
    _require_files(corrections, listing)
    classes = _classes(corrections, listing)
    changed: dict[tuple[str, str], Entry | None] = {}
    entries, removals = {}, list(listing.removals)
    for key, entry in listing.entries.items():
        correction = corrections.by_file.get(_plain(entry.name))
        if correction is None:
            entries[key] = entry
        elif correction.label:
            entries[key] = changed[entry.name, entry.split] = replace(entry, label=classes[correction.label])
        else:
            changed[entry.name, entry.split] = None
            removals.append(Removal(entry.name, entry.split, entry.label, Reason.CORRECTED, correction.place))
    corrected = replace(listing, entries=entries, removals=tuple(removals))
    return CorrectedSource(source.dataset, source, corrected, changed)


def summary(corrections: Corrections, before: Listing, after: Listing) -> str:
    """Say in words what the corrections changed."""
    changed = sum(before.entries[key].label != entry.label for key, entry in after.entries.items())
    left_out = len(before.entries) - len(after.entries)
    same = len(corrections.by_file) - changed - left_out
    already = f", {same:,} had that label already" if same else ""
    return f"{changed:,} images get another label, {left_out:,} are left out{already}"


def _require_files(corrections: Corrections, listing: Listing) -> None:
    names = {_plain(entry.name) for entry in listing.entries.values()}
    unknown = [file for file in corrections.by_file if file not in names]
    if not unknown:
        return
    first = unknown[0]
    same_file = [name for name in sorted(names) if name.rpartition("/")[2] == first.rpartition("/")[2]][:EXAMPLES]
    near = same_file or difflib.get_close_matches(first, list(islice(sorted(names), COMPARED)), 1)
    shown = ", ".join(map(_shown, unknown[:EXAMPLES])) + (", …" if len(unknown) > EXAMPLES else "")
    fix = f"did you mean {near[0]!r}? Correct" if near else "correct"
    raise DataError(
        f"{corrections.by_file[first].place}: {len(unknown):,} of {len(corrections.by_file):,} files are no images of "
        f"the data set ({shown}); {fix} them or remove their lines"
    )


def _classes(corrections: Corrections, listing: Listing) -> dict[str, str]:
    """Return the class that each label means."""
    classes = {_plain(name): name for name in listing.classes}
    for file, correction in corrections.by_file.items():
        if correction.label and correction.label not in classes:
            near = difflib.get_close_matches(correction.label, classes, 3) or sorted(classes)[:EXAMPLES]
            raise DataError(
                f"{correction.place}: label {_shown(correction.label)} of {_shown(file)} is no class of the data set; "
                f"write {' or '.join(map(repr, near))}, or leave it empty to leave the image out"
            )
    return classes


def _plain(name: str) -> str:
    """Return a name as tables have it."""
    return normal(name).strip()


def _shown(text: str) -> str:
    """Return a cell for a message: it may be as long as a file of another kind."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
