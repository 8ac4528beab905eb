"""The series of hostile archives: the same for the same seed.

python -m tests.tasks.vision.data.hostile.series FOLDER 7 12 13    writes archives 7, 12 and 13 into FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from tests.tasks.vision.data.hostile import parquets, sheets, tars, zips

SEED = 26
LENGTH = 500
KINDS = [
    (module.__name__.rpartition(".")[2], kind) for module in (tars, zips, sheets, parquets) for kind in module.KINDS
]
CHANGED = 0.1  # the share of archives of which some bytes are changed


def kind_of(number: int) -> str:
    """Return the kind of an archive of the series, such as `zips.bombs`."""
    module, kind = KINDS[number % len(KINDS)]
    return f"{module}.{kind.__name__}"


def hostile(number: int) -> bytes:
    """Return an archive of the series."""
    random = Random(SEED * 100_000 + number)  # noqa: S311  # a choice, not a secret
    data = KINDS[number % len(KINDS)][1](random)
    if random.random() < CHANGED:
        changed = bytearray(data)
        for _ in range(random.choice([1, 3])):
            changed[random.randrange(4, len(changed))] = random.randrange(256)
        data = bytes(changed)
    return data


if __name__ == "__main__":
    for text in sys.argv[2:]:
        Path(sys.argv[1], text).write_bytes(hostile(int(text)))
        print(text, kind_of(int(text)))
