"""The bronze layer: every image as read."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from PIL import Image

from tasks.errors import DataError
from tasks.vision.cpus import available_cpus
from tasks.vision.data import images
from tasks.vision.data.decoder_process import DecoderProcesses, belongs_apart
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.limits import MAX_PIXEL_BYTES, MIN_SIDE
from tasks.vision.data.progress import Progress
from tasks.vision.data.records import Content, Entry, Reason, Record
from tasks.vision.data.sources import Source

MAX_SIDE, MAX_ASPECT = 8192, 8.0
# Images go to the threads in batches: small enough to bound memory, large enough for little overhead with 1 kB images.
BATCH_IMAGES, BATCH_BYTES = 64, 8 * 2**20
MOST_PROCESSES = 4  # for large images; each may take 512 MB


def read(source: Source, shaping: Shaping, workers: int | None = None) -> list[Record]:
    """Read every image of the source, in the order of their names.

    Images are read and decoded in one pass, so that no archive is unpacked and no encoded image is kept.

    Raises:
        DataError: the pixels of all images would take over `MAX_PIXEL_BYTES`, or an archive is damaged.
    """
    count = len(source.listing.entries)
    needed = count * shaping.channels * shaping.size**2
    if needed > MAX_PIXEL_BYTES:
        raise DataError(
            f"{count} images of {shaping.size} x {shaping.size} need {needed / 2**30:.1f} GiB of memory, over "
            f"{MAX_PIXEL_BYTES / 2**30:.0f}; choose a smaller image_size or fewer images"
        )
    workers = workers or available_cpus()
    decoders = DecoderProcesses(min(workers, MOST_PROCESSES))
    progress = Progress("images read", count)
    records: list[Record] = []
    pending: deque[Future[list[Record]]] = deque()

    def collect() -> None:
        done = pending.popleft().result()
        records.extend(done)
        progress.advance(len(done))

    with closing(decoders), ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        for batch in _batches(source.read()):
            pending.append(pool.submit(_records, batch, shaping.channels, shaping.size, decoders))
            while len(pending) > 2 * workers:
                collect()
        while pending:
            collect()
    return sorted(records, key=lambda record: (record.entry.name, record.sha256))


def size_fault(width: int, height: int) -> str:
    """Return what is wrong with the size of an image; "" when nothing is."""
    size = f"{width} x {height} pixels"
    if min(width, height) < MIN_SIDE:
        return f"{size}; a side is under {MIN_SIDE}"
    if max(width, height) > MAX_SIDE:
        return f"{size}; a side is over {MAX_SIDE}"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{size}; one side is over {MAX_ASPECT:.0f} times the other"
    return ""


def _batches(items: Iterable[tuple[Entry, Callable[[], Content]]]) -> Iterator[list[tuple[Entry, Content | DataError]]]:
    """Read the items in this thread, as archives are streams, and group them."""
    batch: list[tuple[Entry, Content | DataError]] = []
    size = 0
    for entry, read in items:
        try:
            content = read()
        except DataError as error:
            batch.append((entry, error))  # becomes a record that says so
        else:
            batch.append((entry, content))
            size += len(content) if isinstance(content, bytes) else content.nbytes
        if len(batch) >= BATCH_IMAGES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _records(
    batch: list[tuple[Entry, Content | DataError]], channels: int, size: int, decoders: DecoderProcesses
) -> list[Record]:
    return [_record(entry, content, channels, size, decoders) for entry, content in batch]


def _record(entry: Entry, content: Content | DataError, channels: int, size: int, decoders: DecoderProcesses) -> Record:
    if isinstance(content, DataError):
        return Record(entry, fault=Reason.UNREADABLE, detail=str(content))
    data = content if isinstance(content, bytes) else content.tobytes()
    sha256 = hashlib.sha256(data).hexdigest()
    width = height = 0
    try:
        image = images.open_image(content) if isinstance(content, bytes) else Image.fromarray(content)
        width, height = image.size
        if wrong := size_fault(width, height):
            return Record(entry, sha256, len(data), width, height, None, Reason.WRONG_SIZE, wrong)
        if isinstance(content, bytes) and belongs_apart(image, size):
            decoded = decoders.decode(content, channels, size)
        else:
            decoded = images.pixels(image, channels, size)
        return Record(entry, sha256, len(data), width, height, decoded)
    except DataError as error:
        return Record(entry, sha256, len(data), width, height, None, Reason.UNREADABLE, str(error))
