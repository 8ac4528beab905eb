"""The bronze layer: every image as read."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tasks.errors import DataError
from tasks.vision.cpus import available_cpus
from tasks.vision.data import decoded_parts
from tasks.vision.data.decoded_images import DecodedImages
from tasks.vision.data.decoded_parts import PartStore, PartWriter
from tasks.vision.data.decoder import Decoder, Outcome, decoding_here, open_content
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.memory_budget import DEFAULT_BYTES, MemoryBudget
from tasks.vision.data.pixel_file import PixelFile
from tasks.vision.data.progress import Progress
from tasks.vision.data.record_table import RecordTable
from tasks.vision.data.records import Content, Entry, Reason, Record, bytes_of
from tasks.vision.data.sources import Source
from tasks.vision.disk import room

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
    decoder: Decoder | None = None,
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
        decoder: of the images, in place of threads here.

    Raises:
        DataError: an archive is damaged.
        SettingsError: `most_disk` or `most_memory` is too little.
        UnavailableError: the disk is full, or the decoder's workers are lost.
    """
    count = len(source.listing.entries)
    shape = (shaping.channels, shaping.size, shaping.size)
    room(count * math.prod(shape), most_disk, f"{count:,} images of {shaping.size} x {shaping.size} pixels")
    threads = decoder.at_once if decoder else workers or available_cpus()
    thread_bytes = decoder.thread_bytes if decoder else None
    budget = MemoryBudget.of(most_memory, source.listing.entries.values(), threads, thread_bytes)
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

    with ExitStack() as stack:
        decoder = decoder or stack.enter_context(decoding_here(threads, shaping, budget))
        writer = stack.enter_context(PartWriter(parts, file, count)) if parts is not None else None
        pool = stack.enter_context(_threads(threads))
        decode = _Decode(decoder, file, known, writer)
        for batch, size in _batches(source.read()):
            pending.append((pool.submit(decode.batch, batch), size))
            waiting += size
            while len(pending) > 2 * threads or (waiting > budget.waiting_bytes and pending):
                collect()
        while pending:
            collect()
    return records


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
            size += bytes_of(content)
        if len(batch) >= BATCH_IMAGES or size >= BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def _digest(content: Content | DataError) -> str:
    if isinstance(content, DataError):
        return ""
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads, which are waited for, but not after an error: a stage that is asked to stop has seconds."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="decode")
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


@dataclass
class _Decode:
    """Makes records of encoded images.

    Copies of a file share their pixels: an archive of a few kilobytes can hold one image, or links to it, a hundred
    thousand times.
    """

    decoder: Decoder
    file: PixelFile
    known: DecodedImages
    parts: PartWriter | None = None

    def batch(self, batch: Batch) -> list[Record]:
        """Return a record for each image; what an earlier one was a copy of is not decoded again."""
        digests = [_digest(content) for _, content in batch]
        new = {
            sha256: content
            for sha256, (_, content) in zip(digests, batch, strict=True)
            if not isinstance(content, DataError) and self.known.get(sha256) is None
        }
        outcomes = {}
        for sha256, outcome in zip(new, self.decoder.decode(list(new.values())), strict=True):
            if outcome.pixels is not None:
                self._keep(sha256, outcome)
            outcomes[sha256] = outcome._replace(pixels=None)
        return [
            self._record(entry, content, sha256, outcomes.get(sha256))
            for sha256, (entry, content) in zip(digests, batch, strict=True)
        ]

    def _keep(self, sha256: str, outcome: Outcome) -> None:
        assert outcome.pixels is not None  # noqa: S101  # the caller has looked
        image = self.file.add(outcome.pixels)
        if self.parts is not None:
            self.parts.add(image, sha256, outcome.pixels_sha256)
        self.known.setdefault(sha256, (image, outcome.pixels_sha256))

    def _record(self, entry: Entry, content: Content | DataError, sha256: str, outcome: Outcome | None) -> Record:
        if isinstance(content, DataError):
            return Record(entry, fault=Reason.UNREADABLE, detail=str(content))
        if outcome is None:  # its pixels are known already
            _, outcome = open_content(content)
        size = bytes_of(content)
        if outcome.fault is not None:
            wrong = outcome.fault, outcome.detail
            return Record(entry, sha256, size, outcome.width, outcome.height, None, *wrong)
        kept, digest = self.known[sha256]
        return Record(entry, sha256, size, outcome.width, outcome.height, kept, pixels_sha256=digest)
