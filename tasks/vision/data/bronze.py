"""The bronze layer: every image as read."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.errors import DataError
from tasks.vision.cpus import available_cpus
from tasks.vision.data import decoded_parts, images
from tasks.vision.data.decoded_images import DecodedImages
from tasks.vision.data.decoded_parts import PartStore, PartWriter
from tasks.vision.data.decoder_process import DecoderProcesses, belongs_apart
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.limits import MIN_SIDE
from tasks.vision.data.memory_budget import DEFAULT_BYTES, MemoryBudget
from tasks.vision.data.pixel_file import PixelFile
from tasks.vision.data.progress import Progress
from tasks.vision.data.record_table import RecordTable
from tasks.vision.data.records import Content, Entry, Reason, Record
from tasks.vision.data.sources import Source
from tasks.vision.disk import room

MAX_SIDE, MAX_ASPECT = 8192, 8.0
# Images go to the threads in batches: small enough to bound memory, large enough for little overhead with 1 kB images.
BATCH_IMAGES, BATCH_BYTES = 64, 8 * 2**20

log = logging.getLogger(__name__)


def read(
    source: Source,
    shaping: Shaping,
    workers: int | None = None,
    *,
    most_disk: int | None = None,
    most_memory: int = DEFAULT_BYTES,
    parts: PartStore | None = None,
) -> RecordTable:
    """Read every image of the source.

    Images are read and decoded in one pass, so that no archive is unpacked and no encoded image is kept. Their pixels
    go to a file, and what is known of them to a table on disk.

    Args:
        source: where they are.
        shaping: what becomes of them.
        workers: threads that decode; by default as many as there are CPUs.
        most_disk: bytes that the file may take; None: half of what is free.
        most_memory: bytes that images, and what is known of them, may take in memory.
        parts: where an earlier try stored what it had decoded of the same images, which is not decoded again, and this
            one stores more; None: neither.

    Raises:
        DataError: an archive is damaged.
        SettingsError: `most_disk` or `most_memory` is too little.
        UnavailableError: the disk is full.
    """
    count = len(source.listing.entries)
    shape = (shaping.channels, shaping.size, shaping.size)
    room(count * math.prod(shape), most_disk, f"{count:,} images of {shaping.size} x {shaping.size} pixels")
    workers = workers or available_cpus()
    budget = MemoryBudget.of(most_memory, source.listing.entries.values(), workers)
    decoders = DecoderProcesses(budget.processes)
    progress = Progress("images read", count)
    pending: deque[tuple[Future[list[Record]], int]] = deque()
    waiting = 0
    file = PixelFile(shape)
    records, known = RecordTable(file), DecodedImages(file)
    if parts is not None:
        decoded_parts.restore(parts, known, file)
    if len(known):
        log.info("%d different images were decoded by an earlier try and are not decoded again", len(known))

    def collect() -> None:
        nonlocal waiting
        future, size = pending.popleft()
        waiting -= size
        done = future.result()
        records.extend(done)
        progress.advance(len(done))

    with closing(decoders), ExitStack() as stack:
        writer = stack.enter_context(PartWriter(parts, file, count)) if parts is not None else None
        pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="decode"))
        decode = _Decode(shaping.channels, shaping.size, budget.here_bytes, decoders, file, known, writer)
        for batch, size in _batches(source.read()):
            pending.append((pool.submit(decode.batch, batch), size))
            waiting += size
            while len(pending) > 2 * workers or (waiting > budget.waiting_bytes and pending):
                collect()
        while pending:
            collect()
    return records


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


Batch = list[tuple[Entry, Content | DataError]]


def _batches(items: Iterable[tuple[Entry, Callable[[], Content]]]) -> Iterator[tuple[Batch, int]]:
    """Read the items in this thread, as archives are streams, and group them; yield the bytes of each group too."""
    batch: Batch = []
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
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


@dataclass
class _Decode:
    """Makes records of encoded images.

    Copies of a file share their pixels: an archive of a few kilobytes can hold one image, or links to it, a hundred
    thousand times.
    """

    channels: int
    size: int
    here_bytes: int
    decoders: DecoderProcesses
    file: PixelFile
    known: DecodedImages
    parts: PartWriter | None = None

    def batch(self, batch: Batch) -> list[Record]:
        return [self._record(entry, content) for entry, content in batch]

    def _record(self, entry: Entry, content: Content | DataError) -> Record:
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
            decoded = self.known.get(sha256)
            if decoded is None:
                pixels = self._pixels(content, image)
                decoded = self.file.add(pixels), hashlib.sha256(pixels.tobytes()).digest()
                if self.parts is not None:
                    self.parts.add(decoded[0], sha256, decoded[1])
                decoded = self.known.setdefault(sha256, decoded)
            kept, digest = decoded
            return Record(entry, sha256, len(data), width, height, kept, pixels_sha256=digest)
        except DataError as error:
            return Record(entry, sha256, len(data), width, height, None, Reason.UNREADABLE, str(error))

    def _pixels(self, content: Content, image: Image.Image) -> NDArray[np.uint8]:
        if isinstance(content, bytes) and belongs_apart(image, self.size, self.here_bytes):
            return self.decoders.decode(content, self.channels, self.size)
        return images.pixels(image, self.channels, self.size)
