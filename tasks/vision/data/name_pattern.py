"""The layout of labels in file names: a pattern finds the class in `cat.0001.jpg` or `Abyssinian_12.jpg`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from tasks.errors import DataError
from tasks.vision.data.arrangement import Arrangement
from tasks.vision.data.contents import Contents
from tasks.vision.data.names import may_be_image, split_of_path
from tasks.vision.data.records import Entry, Reason

SECONDS = 60.0
# A pattern such as (a+)+$ can take longer than the universe for one name, and nothing interrupts a match in its own
# process. So another one does it, which can be ended.
_MATCHER = """
import json, re, sys
given = json.load(sys.stdin)
pattern = re.compile(given["pattern"])
found = (pattern.search(name) for name in given["names"])
json.dump([match["label"] if match else None for match in found], sys.stdout)
"""


def arrange(contents: Contents, pattern: str) -> Arrangement:
    """Take the class of every image from its file name.

    Raises:
        DataError: no name fits the pattern, or matching takes over `SECONDS`.
    """
    made = Arrangement(f"labels in file names, by the pattern {pattern!r}")
    tried: list[tuple[str, str]] = []
    for name, path in contents.visible.items():
        if may_be_image(path):
            tried.append((name, path))
        else:
            made.leave_out(path, Reason.OUTSIDE)
    found = labels([path.rpartition("/")[2] for _, path in tried], pattern)
    for (name, path), label in zip(tried, found, strict=True):
        label = " ".join((label or "").split())
        if label:
            made.add(name, Entry(path, split_of_path(path) or "train", label))
        else:
            made.leave_out(path, Reason.NO_LABEL, "its name does not fit label_pattern")
    if not made.entries:
        example = f", such as {tried[0][1]!r}" if tried else ""
        raise DataError(
            f"label_pattern={pattern!r} fits none of {len(tried)} file names of {contents.where}{example}; correct it"
        )
    return made


def labels(names: Sequence[str], pattern: str) -> list[str | None]:
    """Return what the group `label` of a pattern finds in each name; None where the pattern does not fit.

    Raises:
        DataError: it takes over `SECONDS`.
    """
    try:
        done = subprocess.run(  # noqa: S603  # Python itself, with a fixed program
            [sys.executable, "-I", "-c", _MATCHER],
            input=json.dumps({"pattern": pattern, "names": list(names)}),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"label_pattern={pattern!r} takes over {SECONDS:.0f} s for {len(names)} file names; "
            "remove repetitions inside repetitions, such as (a+)+"
        ) from error
    if done.returncode:
        raise DataError(f"label_pattern={pattern!r} cannot be used ({done.stderr.strip()[-200:]}); correct it")
    found: list[str | None] = json.loads(done.stdout)
    return found
