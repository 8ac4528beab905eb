from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from tasks.errors import DataError, SettingsError
from tasks.vision.data import bronze, decoded_parts, decoder, images, memory_budget
from tasks.vision.data.contents import Contents
from tasks.vision.data.decoded_images import DecodedImages
from tasks.vision.data.decoder_process import DecoderProcesses
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.layout import arrange
from tasks.vision.data.pixel_file import PixelFile
from tasks.vision.data.records import Content, Entry, Listing, Reason, Record
from tests.tasks.vision.data.picture_files import case
from tests.waiting import until

SHAPING = Shaping("pets", 3, 16, 0.2, 0.2, 0)


def png(width: int = 20, height: int = 16, value: int = 0) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, height), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


class Files:
    """A source of files in memory; a DataError in place of one is raised when it is read."""

    dataset = "pets"
    channels = 3
    side = 32

    def __init__(self, files: dict[str, Content | DataError]) -> None:
        self.files = {"train/ant/0.png": png(), "train/bee/0.png": png(value=1)} | files

    @property
    def listing(self) -> Listing:
        return arrange(Contents("pets", dict.fromkeys(self.files, 1)))

    def digest(self) -> str:
        return "0" * 64

    def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
        def reader(content: Content | DataError) -> Content:
            if isinstance(content, DataError):
                raise content
            return content

        for name, entry in self.listing.entries.items():
            yield entry, lambda content=self.files[name]: reader(content)  # type: ignore[misc]


def only(content: Content | DataError) -> Record:
    return next(r for r in bronze.read(Files({"train/cat/1.png": content}), SHAPING) if r.entry.label == "cat")


def test_an_image_is_recorded_as_read() -> None:
    data = png(30, 20, 200)
    record = only(data)
    assert (record.sha256, record.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (record.width, record.height) == (30, 20)
    assert record.pixels is not None
    assert record.pixels.read().shape == (3, 16, 16)
    assert record.pixels.read()[0, 0, 0] == 200
    assert record.fault is None


def test_pixels_that_never_were_a_file_are_recorded_too() -> None:
    array = np.full((16, 16, 3), 9, np.uint8)
    record = only(array)
    assert record.sha256 == hashlib.sha256(array.tobytes()).hexdigest()
    assert record.pixels is not None
    assert (record.pixels.read() == 9).all()


@pytest.mark.parametrize("data", [b"", b"garbage", png(64, 64)[:-30], png()[:40]])
def test_an_unreadable_image_is_recorded_with_its_fault(data: bytes) -> None:
    record = only(data)
    assert record.fault is Reason.UNREADABLE
    assert record.pixels is None
    assert record.detail
    assert record.sha256 == hashlib.sha256(data).hexdigest()


def test_a_file_that_cannot_be_read_at_all_is_recorded() -> None:
    record = only(DataError("the disk says no"))
    assert (record.fault, record.detail, record.sha256) == (Reason.UNREADABLE, "the disk says no", "")


@pytest.mark.parametrize(
    ("width", "height", "says"),
    [
        (7, 20, "7 x 20 pixels; a side is under 8"),
        (20, 7, "a side is under 8"),
        (8193, 2000, "a side is over 8192"),
        (81, 10, "one side is over 8 times the other"),
    ],
)
def test_a_wrong_size_is_recorded_with_its_numbers(width: int, height: int, says: str) -> None:
    record = only(png(width, height))
    assert record.fault is Reason.WRONG_SIZE
    assert says in record.detail
    assert record.pixels is None


@pytest.mark.parametrize(("width", "height"), [(8, 8), (80, 10), (8192, 1024)])
def test_sizes_at_the_limits_are_taken(width: int, height: int) -> None:
    assert decoder.size_fault(width, height) == ""


@pytest.mark.parametrize("workers", [1, 5])
def test_the_order_is_that_of_the_names_whoever_decodes(workers: int) -> None:
    files: dict[str, Content | DataError] = {
        f"train/cat/{i:03d}.png": png(16, 16, i) for i in reversed(range(bronze.BATCH_IMAGES * 3 + 1))
    }
    records = bronze.read(Files(files), SHAPING, workers)
    assert [r.entry.name for r in records] == sorted(Files(files).files)
    cats = [r.pixels.read()[0, 0, 0] for r in records if r.entry.label == "cat" and r.pixels is not None]
    assert cats == [int(name[10:13]) for name in sorted(files)]


def test_more_pixels_than_the_disk_takes_are_refused_before_reading() -> None:
    most = 2 * 3 * 16 * 16
    assert len(bronze.read(Files({}), SHAPING, most_disk=most)) == 2
    with pytest.raises(SettingsError, match=r"3 images of 16 x 16 pixels needs .* choose a smaller image_size"):
        bronze.read(Files({"train/cat/1.png": png()}), SHAPING, most_disk=most)


def test_a_picture_with_odd_metadata_is_read_and_an_unknown_error_of_a_decoder_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert only(case("exif_make_rational_orient6.jpg")).pixels is not None

    def fail(*_: object) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(JpegImageFile, "_open", fail)
    record = only(case("exif_make_rational_orient6.jpg"))
    assert record.fault is Reason.UNREADABLE
    assert "AttributeError: no such thing" in record.detail


def test_a_mistake_in_the_code_is_not_taken_for_a_bad_image() -> None:
    with pytest.raises(ValueError, match="channels=2"):
        bronze.read(Files({}), Shaping("pets", 2, 16, 0.2, 0.2, 0))


def test_copies_of_a_file_are_decoded_once_and_share_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image of a few bytes, a hundred thousand times in an archive, would fill the memory."""
    decoded = []
    pixels = images.pixels
    monkeypatch.setattr(images, "pixels", lambda *args: decoded.append(args) or pixels(*args))
    files: dict[str, Content | DataError] = {f"train/cat/{n}.png": png(value=n == 70) for n in range(140)}
    records = bronze.read(Files(files), SHAPING, workers=1)
    assert len(records) == 142
    assert len({record.pixels.position for record in records if record.pixels}) == len(decoded) == 2


def test_a_decoder_elsewhere_gets_neither_copies_nor_what_an_earlier_try_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, given = decoder.Here(3, 16, 1, DecoderProcesses(1)), []

    class Elsewhere:
        at_once, thread_bytes = 1, 2**20

        def decode(self, contents: list[Content]) -> Iterator[decoder.Outcome]:
            given.append(list(contents))
            return here.decode(contents)

    def restore(_: object, decoded: DecodedImages, file: PixelFile) -> None:
        earlier = file.add(np.full((3, 16, 16), 7, np.uint8))
        decoded.setdefault(hashlib.sha256(png(value=1)).hexdigest(), (earlier, b"digest"))

    monkeypatch.setattr(decoded_parts, "restore", restore)
    files: dict[str, Content | DataError] = {
        "train/cat/1.png": png(),
        "train/cat/2.png": png(7, 20),
        "train/cat/3.png": b"garbage",
        "train/cat/4.png": DataError("the disk says no"),
    }
    found = bronze.read(Files(files), SHAPING, parts=Mock(), decoder=Elsewhere())
    assert given == [[png(), png(7, 20), b"garbage"]]
    kept = {record.entry.name: record.pixels.read()[0, 0, 0] for record in found if record.pixels}
    assert kept == {"train/ant/0.png": 0, "train/bee/0.png": 7, "train/cat/1.png": 0}
    assert [(record.width, record.height) for record in found if record.pixels] == [(20, 16)] * 3
    wrong = [record.fault for record in found if record.fault]
    assert wrong == [Reason.WRONG_SIZE, Reason.UNREADABLE, Reason.UNREADABLE]


def test_a_stage_that_ends_does_not_wait_for_what_is_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a cluster may be away for minutes."""
    monkeypatch.setattr(bronze, "BATCH_IMAGES", 1)
    go, given = threading.Event(), []

    class Away:
        at_once, thread_bytes = 1, 2**20

        def decode(self, contents: list[Content]) -> Iterator[decoder.Outcome]:
            given.append(contents)
            go.wait(600)
            yield decoder.Outcome()

    class Cut(Files):
        def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
            yield from super().read()
            until(lambda: given)
            raise DataError("the archive is cut short")

    before = threading.active_count()
    with pytest.raises(DataError, match="the archive is cut short"):
        bronze.read(Cut({}), SHAPING, decoder=Away())
    go.set()
    until(lambda: threading.active_count() == before)
    assert len(given) == 1


def test_batches_that_wait_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads there are: images of up to 64 MiB each would wait for all of them."""
    monkeypatch.setattr(bronze, "BATCH_BYTES", 1)
    monkeypatch.setattr(memory_budget, "WAITING_BYTES", 3 * len(png()))
    decode, given, at_the_time = bronze._Decode.batch, [], []
    go = threading.Event()

    def late(self: bronze._Decode, batch: bronze.Batch) -> list[Record]:
        go.wait(60)
        return decode(self, batch)

    class Counted(Files):
        def read(self) -> Iterator[tuple[Entry, Callable[[], Content]]]:
            for item in super().read():
                given.append(item)
                yield item

    def stop_waiting() -> None:
        at_the_time.append(len(given))
        go.set()

    monkeypatch.setattr(bronze._Decode, "batch", late)
    timer = threading.Timer(0.5, stop_waiting)
    timer.start()
    records = bronze.read(Counted({f"train/cat/{n}.png": png() for n in range(40)}), SHAPING, workers=16)
    timer.join()
    assert len(records) == 42
    assert 1 <= at_the_time[0] <= 5
