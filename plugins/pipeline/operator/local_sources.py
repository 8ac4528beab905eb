"""Paths of a request on Docker: below which folders they must be, and where a stage finds them.

The whole folder is mounted, not the path: a link below it is then followed inside the container. The engine would
follow it on its own machine, as root, to wherever the link leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from tasks.errors import RequestError

# Everything is mounted under this folder, so that no path covers a file of the image.
MOUNTED_UNDER = "/sources"


def in_container(path: str) -> str:
    """Return where a stage finds a path of the engine's machine: always the same place."""
    return MOUNTED_UNDER + path


def root_of(name: str, path: str, roots: Sequence[str]) -> str:
    """Return the folder that a path is in; the outermost one, if it is in several.

    Args:
        name: the field of the request.
        path: its value, absolute.
        roots: the folders of PIPELINE_SOURCE_ROOTS.

    Raises:
        RequestError: it is in none; naming the field, the path and the setting.
    """
    pure = PurePosixPath(path)
    around = [] if ".." in pure.parts else [root for root in roots if pure.is_relative_to(root)]
    if not around:
        are = f"PIPELINE_SOURCE_ROOTS={','.join(roots)}" if roots else "PIPELINE_SOURCE_ROOTS, which is not set"
        raise RequestError(
            f"{name}={path!r} is not below a folder of {are}; add its folder there (in .env, then `make up`), "
            "move the data below one, or give an s3:// URL"
        )
    return min(around, key=len)
