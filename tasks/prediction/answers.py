"""Reads, and has classified: by several threads, in the source's order, with a bounded number of images in memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, RequestError
from tasks.prediction.classifier import Classifier
from tasks.prediction.sources import Images, Item

# Files of archives are read in one thread and wait for the others: a batch ends at BATCH_BYTES of them.
BATCH_BYTES, WAITING_BYTES = 8 * 2**20, 128 * 2**20
READERS = 16  # threads at least where files are fetched over a network


class Answer(NamedTuple):
    """What came of one file: the probability of each class, float32 [K], or None and why not."""

    name: str
    probabilities: NDArray[np.float32] | None
    reason: str = ""


class Position(NamedTuple):
    """How far a source was gone through: a number of items, and the SHA-256 of their names and marks."""

    items: int = 0
    digest: str = ""


class Batch(NamedTuple):
    """Items that go through the model together, and the position behind them."""

    items: list[Item]
    held: int
    end: Position


class Answered(NamedTuple):
    """The answers to a batch, and the position behind it."""

    answers: list[Answer]
    end: Position


def batches(source: Images, begin: Position, part: int, size: int) -> Iterator[Batch]:
    """Group the items behind `begin`; no batch belongs to two parts.

    Args:
        source: the images.
        begin: what was predicted before, which is checked: names, sizes and times must be the same.
        part: items in a part.
        size: items in a batch.

    Raises:
        RequestError: the source is not what was predicted before.
        DataError: it is damaged.
    """
    changed = RequestError(
        f"images={source.where!r} has changed since its first {begin.items} images were predicted into this out; "
        "give another out, or an empty one, to predict all of it"
    )
    seen = hashlib.sha256(source.identity.encode())
    count = held = 0
    batch: list[Item] = []
    for item in source.items():
        if count == begin.items and begin.items % part:  # a part that is not full is the last one
            raise changed
        seen.update(f"{item.name}\0{item.mark}\n".encode())
        count += 1
        if count <= begin.items:
            if count == begin.items and seen.hexdigest() != begin.digest:
                raise changed
            continue
        if not item.later:
            item, length = _read_now(item)
            held += length
        batch.append(item)
        if len(batch) >= size or held >= BATCH_BYTES or count % part == 0:
            yield Batch(batch, held, Position(count, seen.hexdigest()))
            batch, held = [], 0
    if count < begin.items:
        raise changed
    if batch:
        yield Batch(batch, held, Position(count, seen.hexdigest()))


def answered(classifier: Classifier, found: Iterable[Batch], *, remote: bool = False) -> Iterator[Answered]:
    """Yield the answers to batches, in their order.

    Args:
        classifier: decodes the images and classifies them.
        found: the batches.
        remote: whether files come over a network, so that more threads than the classifier needs are of use.
    """
    workers = max(classifier.at_once, READERS) if remote else classifier.at_once
    work = _Work(classifier)
    pending: deque[tuple[Future[list[Answer]], int, Position]] = deque()
    waiting = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="predict")
    try:
        for batch in found:
            pending.append((pool.submit(work.answers, batch.items), batch.held, batch.end))
            waiting += batch.held
            while len(pending) > 2 * workers or (waiting > WAITING_BYTES and pending):
                future, held, end = pending.popleft()
                waiting -= held
                yield Answered(future.result(), end)
        while pending:
            future, _, end = pending.popleft()
            yield Answered(future.result(), end)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a stage that is asked to stop has seconds


@dataclass(frozen=True)
class _Work:
    """What threads do with a batch."""

    classifier: Classifier

    def answers(self, items: list[Item]) -> list[Answer]:
        reasons: list[str] = []
        outcomes = iter(self.classifier.classify(_read(items, reasons)))
        return [
            Answer(item.name, None, reason) if reason else Answer(item.name, *next(outcomes))
            for item, reason in zip(items, reasons, strict=True)
        ]


def _read(items: list[Item], reasons: list[str]) -> Iterator[bytes]:
    """Yield what the items hold, one in memory at a time, and note for each why it cannot be read, or nothing."""
    for item in items:
        try:
            data = item.read()
        except DataError as error:
            reasons.append(str(error))
        else:
            reasons.append("")
            yield data


def _read_now(item: Item) -> tuple[Item, int]:
    try:
        data = item.read()
    except DataError as error:
        return item._replace(read=partial(_refuse, error)), 0
    return item._replace(read=partial(_same, data)), len(data)


def _same(data: bytes) -> bytes:
    return data


def _refuse(error: DataError) -> bytes:
    raise error
