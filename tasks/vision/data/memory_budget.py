"""How the memory that prepare may take for images is divided, beside the half GiB that its libraries take."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from tasks.errors import SettingsError
from tasks.vision.data import decoded_images, decoded_parts, record_table
from tasks.vision.data.decoder_process import HERE_BYTES, MOST_PROCESSES, PROCESS_BYTES
from tasks.vision.data.records import Entry

DEFAULT_BYTES = 2 * 2**30
IMAGE_BYTES = 300  # that stay in memory of each image, beside its name and metadata: docs/benchmarks/data.md
WAITING_BYTES = 128 * 2**20  # of the images that wait to be decoded, at most, however many threads there are
WAITING_SHARE = 8  # at most an eighth of what is left, where that is less
LEAST_HERE_BYTES = 2**20
# Each part on its way has a chunk of rows, what it is made of, and what the store's client takes.
_TRANSFER_BYTES = 3 * decoded_parts.CHUNK_BYTES * decoded_parts.TRANSFERS
_FIXED_BYTES = decoded_images.CACHE_BYTES + record_table.CACHE_BYTES + _TRANSFER_BYTES


@dataclass(frozen=True)
class MemoryBudget:
    """What the parts of reading may take.

    Attributes:
        waiting_bytes: images that wait to be decoded, all together.
        here_bytes: one image in each thread that decodes; larger ones go to a process.
        processes: that decode large images, each of which takes up to `PROCESS_BYTES`; 0 where others decode.
    """

    waiting_bytes: int
    here_bytes: int
    processes: int

    @classmethod
    def of(cls, total: int, entries: Collection[Entry], threads: int, thread_bytes: int | None = None) -> Self:
        """Divide what is left after what stays in memory of every image.

        Args:
            total: bytes that images may take.
            entries: the images.
            threads: that decode.
            thread_bytes: that each of them takes, where it has others decode; None: what is left is divided.

        Raises:
            SettingsError: that is too little for so many images.
        """
        known = sum(IMAGE_BYTES + sum(map(sys.getsizeof, (entry.name, *entry.metadata))) for entry in entries)
        left = total - known - _FIXED_BYTES
        waiting = min(WAITING_BYTES, max(0, left) // WAITING_SHARE)
        left -= waiting
        decoding = PROCESS_BYTES + threads * LEAST_HERE_BYTES if thread_bytes is None else threads * thread_bytes
        if left < decoding:
            least = decoding * WAITING_SHARE / (WAITING_SHARE - 1) + _FIXED_BYTES
            needed = math.ceil((known + least) / 2**30)
            raise SettingsError(
                f"{total / 2**30:.1f} GiB of memory are too little for {len(entries):,} images and {threads} threads: "
                f"what is known of images takes {known / 2**30:.1f}, decoding {least / 2**30:.1f}; set "
                f"PIPELINE_PREPARE_MEMORY_GIB to {needed} or more, with a limit of the stage's memory above that "
                "(PIPELINE_RESOURCES), or split the data set"
            )
        if thread_bytes is not None:
            return cls(waiting, 0, 0)
        most = min(threads, MOST_PROCESSES)
        processes = min(most, max(1, (left - threads * HERE_BYTES) // PROCESS_BYTES))
        return cls(waiting, min(HERE_BYTES, (left - processes * PROCESS_BYTES) // threads), processes)
