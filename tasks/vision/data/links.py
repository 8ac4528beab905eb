"""Follows the links inside a source, without asking the operating system: they lead to a file of the source or nowhere.

The same rules hold for a folder, a tar and a zip.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import PurePosixPath

from tasks.errors import DataError

MAX_HOPS = 40  # as Linux
FIX = "replace it by what it leads to (cp -rL, tar -h)"


def follow(
    links: Mapping[str, str], files: Collection[str], where: str, limit: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Find the file behind every link.

    Args:
        links: the target of each link, as it is written in it: relative to the folder of the link.
        files: the regular files.
        where: what the user called the source, for messages.
        limit: how many files the links may stand for; links to folders can multiply.

    Returns:
        The regular file by each path that leads to it through links, and why the other links lead to none.

    Raises:
        DataError: the links stand for more than `limit` files.
    """
    # `tar cf x.tar a a` stores the second `a` as a link to itself; the file is there all the same.
    links = {link: target for link, target in links.items() if link not in files}
    if not links:
        return {}, {}
    children: dict[str, set[str]] = defaultdict(set)  # full paths by folder; "" is the source itself
    for path in (*files, *links):
        while path and path not in children[parent := _folder(path)]:
            children[parent].add(path)
            path = parent
    aliases: dict[str, str] = {}
    broken: dict[str, str] = {}
    left = limit

    def spend() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise DataError(f"{where} has links that stand for over {limit} files and folders; replace them by copies")

    for link, target in links.items():
        real = _real(link, links)
        if real is None:
            broken[link] = f"leads to {target!r}, outside of the source or in a circle; {FIX}"
        elif real in files:
            spend()
            aliases[link] = real
        elif real not in children:
            broken[link] = f"leads to {target!r}, which is not there; {FIX}"
        elif f"{link}/".startswith(f"{real}/" if real else ""):
            broken[link] = f"leads to {target!r}, a folder that holds the link itself; {FIX}"
        else:
            for place, file in _files_below(link, real, links, files, children, spend):
                aliases[place] = file
    return aliases, broken


def _files_below(
    link: str,
    real: str,
    links: Mapping[str, str],
    files: Collection[str],
    children: Mapping[str, set[str]],
    spend: Callable[[], None],
) -> Iterator[tuple[str, str]]:
    """Yield the files of a linked folder; a link inside it that leads back up is not followed again.

    Folders count as files do: ten of them, each with ten links to the next, are as many paths as it likes.
    """
    todo: list[tuple[str, str, tuple[str, ...]]] = [(link, real, (real,))]
    while todo:
        shown, folder, above = todo.pop()
        for child in sorted(children[folder]):
            place = f"{shown}/{PurePosixPath(child).name}"
            target = _real(child, links) if child in links else child
            if target is None or target in above or (target not in files and target not in children):
                continue
            spend()
            if target in files:
                yield place, target
            else:
                todo.append((place, target, (*above, target)))


def _real(path: str, links: Mapping[str, str]) -> str | None:
    """Return the path without links; None where it leaves the source or does not end."""
    done: list[str] = []
    todo = deque(path.split("/"))
    hops = 0
    while todo:
        part = todo.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            if not done:
                return None
            done.pop()
            continue
        done.append(part)
        target = links.get("/".join(done))
        if target is not None:
            hops += 1
            if hops > MAX_HOPS or target.startswith("/"):
                return None
            done.pop()
            todo.extendleft(reversed(target.split("/")))
    return "/".join(done)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
