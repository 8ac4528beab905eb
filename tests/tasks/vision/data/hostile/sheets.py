"""Label sheets, in archives, that take more memory or time than their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from tests.tasks.vision.data.hostile.material import MIB, image, packed, pets
from tests.tasks.vision.data.hostile.tars import EMOJI, END, entry, files, numbered


def beside(random: Random, sheets: dict[str, bytes], images: bytes | None = None) -> bytes:
    """Return a tar with a data set and these sheets."""
    data = images if images is not None else files(pets())
    return packed(data + files(sheets) + END, random)


def flat(count: int) -> bytes:
    """Return images outside of class folders, so that a sheet has to give their labels."""
    return b"".join(entry(f"{n}.png", image(n)) for n in range(count))


def one_line(random: Random) -> bytes:
    """A line of up to a gigabyte."""
    size = random.choice([1, 30, 60, 90]) * MIB
    filling = random.choice([b"x", b",", b"\t", b'"', b"[", b"\xf0\x9f\x90\xb6", b" ", b"\r", b'{"a":', b"1"])
    line = filling * (size // len(filling))
    start = random.choice([b"", b"file_name,label\n0.png,", b'{"file_name": "0.png", "label": "'])
    sheet = random.choice(["labels.csv", "labels.tsv", "labels.jsonl"])
    return beside(random, {sheet: start + line}, random.choice([None, flat(8)]))


def wide(random: Random) -> bytes:
    """A thousand columns or more, in thousands of rows."""
    columns = random.choice([100, 990, 2_000, 1_000_000])
    images = flat(4) + numbered(random.choice([100, 20_000]), b"") if columns < 1_000_000 else flat(8)
    count = min(20_000, 50 * MIB // (columns + 20))
    rows = b"".join(b"cat/%07d.png,%s" % (n, b"cd"[n % 2 : n % 2 + 1]) + b"," * columns + b"\n" for n in range(count))
    names = b"file_name,label" + b"".join(b",c%d" % n for n in range(columns)) + b"\n"
    name = random.choice(["metadata.csv", "labels.csv", "cat/metadata.csv"])
    return beside(random, {name: (names + rows)}, images)


def many_in_folders(random: Random) -> bytes:
    """Sheets of megabytes in every class folder."""
    row = random.choice([b"0.png,cat,%d\n", b"none.png,x,%d\n", b"1.png,%d,y\n"])
    rows = b"file_name,label,note\n" + b"".join(row % n for n in range(random.choice([20_000, 400_000])))
    count = random.choice([3, 14, 30])
    names = [f"{('cat', 'dog')[n % 2]}/{random.choice(['labels', 'metadata', 'x'])}{n}.csv" for n in range(count)]
    return beside(random, dict.fromkeys(names, rows))


def other_columns(random: Random) -> bytes:
    """Sheets with other columns each, which every image would have a value in."""
    sheets = {}
    for split in ("train", "test", "validation"):
        names = b"".join(b",%s%d" % (split.encode(), n) for n in range(900))
        sheets[f"{split}/metadata.csv"] = b"file_name" + names + b"\n"
    count = random.choice([200, 8_000])
    images = b"".join(
        entry(f"{split}/{label}/{n}.png", image(n + 50 * (label == "dog")))
        for split in ("train", "test", "validation")
        for label in ("cat", "dog")
        for n in range(6)
    )
    return beside(random, sheets, images + numbered(count, image(1), folder="train/cat"))


def one_image_many_labels(random: Random) -> bytes:
    """Millions of rows about one image, each with another label."""
    rows = b"".join(b"cat/1.png,%d\n" % n for n in range(random.choice([1_000, 1_500_000])))
    return beside(random, {"labels.csv": b"file_name,label\n" + rows})


def long_cells(random: Random) -> bytes:
    """Cells of 130 kB, some with characters of four bytes, as values, labels and names of columns."""
    cell = (EMOJI + "v" * 130_000).encode()
    where = random.choice(["value", "label", "column"])
    count = 400
    images = flat(8) + numbered(count, b"")
    if where == "column":
        sheet = b"file_name,label," + b",".join(cell + b"%d" % n for n in range(50)) + b"\n"
    else:
        sheet = b"file_name,label,note\n" + b"".join(
            b"cat/%07d.png,%s,%s\n" % ((n, b"a", cell + b"%d" % n) if where == "value" else (n, cell + b"%d" % n, b""))
            for n in range(count)
        )
    return beside(random, {random.choice(["metadata.csv", "labels.csv"]): sheet}, images)


def json_lines(random: Random) -> bytes:
    """JSON that is deep, has huge numbers or another key on every line."""
    line = random.choice(
        [
            b"[" * 100_000 + b"]" * 100_000, b'{"a": ' * 50_000, b'{"n": ' + b"9" * 5_000 + b"}", b'{"n": 1e999}',
            b'{"file_name": "0.png", "label": ["\\ud83d"]}',
            b"{" + b",".join(b'"k%d":1' % n for n in range(5_000)) + b"}",
            b'{"a": [' + b"[]," * 300_000 + b"1]}",
        ]
    )  # fmt: skip
    many = b"".join(b'{"file_name": "%d.png", "k%d": "v"}\n' % (n, n) for n in range(100_000))
    return beside(random, {"metadata.jsonl": random.choice([line + b"\n", many])}, random.choice([None, flat(8)]))


def many_sheets(random: Random) -> bytes:
    """Thousands of small sheets."""
    sheets = {f"{('cat', 'dog')[n % 2]}/s{n}.csv": b"file_name,label\n0.png,cat\n" for n in range(5_000)}
    return beside(random, sheets)


def quotes(random: Random) -> bytes:
    """Rows that go on over many lines, because a quote is open."""
    body = random.choice([b'"\n"' * 5_000_000, b',"\n' * 5_000_000, b'"a\nb",' * 3_000_000, b'"' + b"a\n" * 100_000])
    return beside(random, {"labels.csv": b"file_name,label\n" + body}, flat(8))


KINDS: Iterable[Callable[[Random], bytes]] = (
    one_line, wide, many_in_folders, other_columns, one_image_many_labels, long_cells, json_lines, many_sheets, quotes,
)  # fmt: skip
