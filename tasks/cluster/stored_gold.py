"""Gold that is larger than memory, as a process of a Ray opens it: file by file from the stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.cluster.answer import answer
from tasks.vision.data.gold import Gold
from tasks.vision.data.shards import reader
from tasks.vision.data.shards.description import Description
from tasks.vision.disk import room


@dataclass(frozen=True)
class StoredGold:
    """What a process needs to open gold; each has its own folder of shards.

    Attributes:
        description: what it holds, checked by the stage.
        files: actor `GoldFiles`.
        most_disk: bytes that the shards of all processes on a machine may take; None: half of what is free.
        readers: how many processes share that, at most.
        where, fix: for errors, see `shards.reader.read`.
    """

    description: Description
    files: Any
    most_disk: int | None
    readers: int
    where: str
    fix: str

    def open(self) -> Gold:
        """Open it; images stay on disk.

        Raises:
            DataError: a file is missing or damaged.
            ChangedError: a file is not what was stored.
            SettingsError: the disk has too little room.
            UnavailableError: the store was away for too long.
        """
        most = room(0, self.most_disk, self.where) // self.readers
        return reader.read(self.description, self._fetch, most_memory=0, most_disk=most, where=self.where, fix=self.fix)

    def _fetch(self, name: str, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(answer(self.files.read.remote(name)))
        return folder / name
