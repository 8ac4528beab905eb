"""How much of the disk images may take. Standard library only."""

from __future__ import annotations

import math
import shutil
import tempfile

from tasks.errors import SettingsError


def room(needed: int, allowed: int | None, what: str) -> int:
    """Return how many bytes may be taken in the folder of temporary files, at least those needed.

    Args:
        needed: bytes.
        allowed: bytes that the setting allows; None: half of what is free.
        what: needs them, for errors.

    Raises:
        SettingsError: that is too little.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    most = free // 2 if allowed is None else min(free, allowed)
    if most < needed:
        raise SettingsError(
            f"{what} needs {needed / 2**30:.1f} GiB of disk, and may take {most / 2**30:.1f} GiB of {folder}, where "
            f"{free / 2**30:.1f} are free; set PIPELINE_GOLD_DISK_GIB to {math.ceil(needed / 2**30)} or more, or give "
            "the stage a larger disk, or choose a smaller image_size"
        )
    return most
