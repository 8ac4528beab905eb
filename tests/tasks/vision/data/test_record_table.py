"""Records on disk, against plain logic in memory: what stays, why the rest goes, and the gold that is made."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from itertools import product

import numpy as np
import pytest

from tasks.errors import UnavailableError
from tasks.vision.data import silver, splits
from tasks.vision.data.disk_database import DiskDatabase
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.pixel_file import PixelFile
from tasks.vision.data.record_table import RecordTable
from tasks.vision.data.records import Entry, Reason, Record, Removal

SHAPING = Shaping("pets", 1, 8, 0.2, 0.25, seed=3)
CLASSES = ("ant", "bee", "cat")
BEGINNINGS = ("z", "é", "\udce9")
SPLITS = ("train", "validation", "test")


def random_records(file: PixelFile, seed: int) -> list[Record]:
    """600 images in random order with pixels of 400 kinds: copies, conflicts and leaks; some cannot be read."""
    generator = np.random.default_rng(seed)
    made = []
    for number in generator.permutation(600):
        value = int(generator.integers(400))
        split = SPLITS[generator.choice(3, p=[0.7, 0.1, 0.2])]
        label = CLASSES[value % 3 if generator.random() < 0.97 else int(generator.integers(3))]
        # The same picture again, or the same pixels in another file; some names are no ASCII, and some no UTF-8.
        sha256 = hashlib.sha256(f"{value} {generator.integers(2)}".encode()).hexdigest()
        entry = Entry(f"{split}/{label}/{BEGINNINGS[number % 3]}{number}.png", split, label, (str(number),))
        if generator.random() < 0.05:
            made.append(Record(entry, sha256, 9, 3, 3, fault=Reason.WRONG_SIZE, detail="3 x 3 pixels"))
        elif generator.random() < 0.02:
            made.append(Record(entry, fault=Reason.UNREADABLE, detail="damaged"))
        else:
            pixels = np.full((1, 8, 8), value % 256, np.uint8)
            pixels[0, 0, 0] = value // 256
            digest = hashlib.sha256(pixels.tobytes()).digest()
            made.append(Record(entry, sha256, 100 + value, 8, 8, file.add(pixels), pixels_sha256=digest))
    return made


def expected_clean(records: list[Record]) -> tuple[list[str], list[Removal]]:
    """Which stay and which do not, all in memory."""
    records = sorted(records, key=lambda record: (record.entry.name, record.sha256))
    stay, gone = [], []
    same: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        if record.fault is None:
            same[record.pixels_sha256].append(record)
        else:
            gone.append(Removal(*of(record), record.fault, record.detail))
    for copies in same.values():
        labels = sorted({record.entry.label for record in copies})
        first = next(r for split in ("test", "validation", "train") for r in copies if r.entry.split == split)
        if len(labels) > 1:
            detail = f"classes {', '.join(labels)}: {', '.join(record.entry.name for record in copies[:5])}"
            gone += [Removal(*of(record), Reason.CONFLICT, detail) for record in copies]
            continue
        stay.append(first.entry.name)
        for record in copies:
            if record.entry.split == first.entry.split and record is not first:
                gone.append(Removal(*of(record), Reason.DUPLICATE, f"of {first.entry.name}"))
            elif record is not first:
                leak = Reason.LEAK if first.entry.split == "test" else Reason.VALIDATION_LEAK
                gone.append(Removal(*of(record), leak, f"as {first.entry.name}"))
    return sorted(stay), sorted(gone, key=lambda removal: removal.name)


def of(record: Record) -> tuple[str, str, str]:
    return record.entry.name, record.entry.split, record.entry.label


def filled(file: PixelFile, records: list[Record]) -> RecordTable:
    table = RecordTable(file, cache_bytes=2**16)
    for start in range(0, len(records), 64):
        table.extend(records[start : start + 64])
    return table


def plain(record: Record) -> tuple[object, ...]:
    position = record.pixels.position if record.pixels else None
    rest = (record.size, record.width, record.height, record.fault, record.detail, record.pixels_sha256)
    return record.entry, record.sha256, position, *rest


@pytest.mark.parametrize("seed", range(3))
def test_records_come_back_as_they_were_in_the_order_of_names(seed: int) -> None:
    file = PixelFile((1, 8, 8))
    records = random_records(file, seed)
    table = filled(file, records)
    in_order = sorted(records, key=lambda record: (record.entry.name, record.sha256))
    assert len(table) == 600
    assert [plain(record) for record in table] == [plain(record) for record in in_order]


def test_equal_names_are_in_the_order_of_what_was_read() -> None:
    entry = Entry("train/ant/1.png", "train", "ant")
    digests = [hashlib.sha256(text).hexdigest() for text in (b"a", b"b", b"c")]
    table = filled(PixelFile((1, 8, 8)), [Record(entry, digest) for digest in digests] + [Record(entry)])
    assert [record.sha256 for record in table] == ["", *sorted(digests)]


@pytest.mark.parametrize("seed", range(3))
def test_what_stays_and_why_the_rest_goes_equals_plain_logic(seed: int) -> None:
    file = PixelFile((1, 8, 8))
    records = random_records(file, seed)
    kept, removals = silver.clean(filled(file, records))
    stay, gone = expected_clean(records)
    assert ([record.entry.name for record in kept], removals) == (stay, gone)
    assert {removal.reason for removal in removals} >= {
        *(Reason.CONFLICT, Reason.DUPLICATE, Reason.LEAK, Reason.VALIDATION_LEAK),
        *(Reason.WRONG_SIZE, Reason.UNREADABLE),
    }


@pytest.mark.parametrize(("has_test", "has_validation"), [*product([False, True], repeat=2)])
def test_gold_equals_that_of_plain_logic(has_test: bool, has_validation: bool) -> None:
    file = PixelFile((1, 8, 8))
    wanted = {"train"} | ({"test"} if has_test else set()) | ({"validation"} if has_validation else set())
    records = [record for record in random_records(file, 7) if record.entry.split in wanted]
    stay, _ = expected_clean(records)
    by_name = {record.entry.name: record for record in records}
    expected: dict[str, list[str]] = {split: [] for split in SPLITS}
    for label in CLASSES:
        mine = {s: [n for n in stay if by_name[n].entry.label == label and n.startswith(s)] for s in SPLITS}
        train = sorted(mine["train"], key=lambda n: hashlib.sha256(f"3:{by_name[n].sha256}".encode()).digest())
        validation = 0 if has_validation else round(len(train) * 0.2)
        test = 0 if has_test else round(len(train) * 0.25)
        expected["validation"] += mine["validation"] or train[:validation]
        expected["test"] += mine["test"] or train[validation : validation + test]
        expected["train"] += train[validation + test :]
    kept, _ = silver.clean(filled(file, records))
    gold = splits.split(
        kept, CLASSES, SHAPING, "f" * 64, has_test=has_test, has_validation=has_validation, columns=["number"]
    )
    for split, names in expected.items():
        made = gold.splits[split]
        assert list(made.names) == sorted(names)
        assert [CLASSES[label] for label in made.labels] == [by_name[name].entry.label for name in made.names]
        images = [pixels.read() for name in made.names if (pixels := by_name[name].pixels)]
        np.testing.assert_array_equal(made.images[:], np.stack(images))
    assert gold.test.columns == {"number": tuple(by_name[name].entry.metadata[0] for name in gold.test.names)}


def test_a_full_disk_is_named() -> None:
    database = DiskDatabase(2**16)
    database.execute("CREATE TABLE names (name BLOB)")
    database.execute("PRAGMA max_page_count = 8")
    with pytest.raises(UnavailableError, match=r"no room for what is known of the images \(database or disk is full\)"):
        database.insert("INSERT INTO names VALUES (?)", ([bytes(1000)] for _ in range(1000)))
