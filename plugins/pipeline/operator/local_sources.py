"""Paths of a request on Docker: which may be mounted, and where a stage finds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from tasks.errors import RequestError

# Everything is mounted under this folder, so that no path covers a file of the image.
MOUNTED_UNDER = "/sources"


def in_container(path: str) -> str:
    """Return where a stage finds a path of the engine's machine: always the same place."""
    return MOUNTED_UNDER + path


def is_allowed(path: str, roots: Sequence[str]) -> bool:
    """Tell whether a path may be mounted: absolute, written in one way only, and a root or below one.

    Args:
        path: a path of the engine's machine. Links in it are not known here; the engine follows them.
        roots: the folders of PIPELINE_SOURCE_ROOTS.
    """
    pure = PurePosixPath(path)
    plain = str(pure) == path and path.startswith("/") and not path.startswith("//") and path.isprintable()
    return plain and ".." not in pure.parts and any(pure.is_relative_to(root) for root in roots)


def require_allowed(name: str, path: str, roots: Sequence[str]) -> None:
    """Refuse a path outside of the roots.

    Args:
        name: the field of the request.
        path: its value, absolute.
        roots: the folders of PIPELINE_SOURCE_ROOTS.

    Raises:
        RequestError: naming the field, the path and the setting.
    """
    if not is_allowed(path, roots):
        are = f"PIPELINE_SOURCE_ROOTS={','.join(roots)}" if roots else "PIPELINE_SOURCE_ROOTS, which is not set"
        raise RequestError(
            f"{name}={path!r} is not below a folder of {are}; add its folder there (in .env, then `make up`), "
            "move the data below one, or give an s3:// URL"
        )
