"""Follows the links inside a source, without asking the operating system: they lead to a file of the source or nowhere.

The same rules hold for a folder, a tar and a zip.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from tasks.errors import DataError
from tasks.vision.data.limits import ENTRY_BYTES
from tasks.vision.data.names import MAX_FOLDERS, MAX_PATH

MAX_HOPS = 40  # as Linux
MAX_STEPS = 4 * MAX_FOLDERS  # folders that one link may lead through
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
    folders = _Folders((*files, *links))
    aliases: dict[str, str] = {}
    broken: dict[str, str] = {}
    left = limit

    def spend(path: str) -> None:
        nonlocal left
        left -= 1 + len(path) // ENTRY_BYTES  # a long path takes the memory of several
        if left < 0:
            raise DataError(f"{where} has links that stand for over {limit} files and folders; replace them by copies")

    for link, target in links.items():
        real = _real(link, links)
        if real is None:
            broken[link] = f"leads to {target!r}, outside of the source, too far or in a circle; {FIX}"
        elif real in files:
            spend(link)
            aliases[link] = real
        elif real not in folders:
            broken[link] = f"leads to {target!r}, which is not there; {FIX}"
        elif f"{link}/".startswith(f"{real}/" if real else ""):
            broken[link] = f"leads to {target!r}, a folder that holds the link itself; {FIX}"
        else:
            for place, file in _files_below(link, real, links, files, folders, spend):
                aliases[place] = file
    return aliases, broken


def _files_below(
    link: str,
    real: str,
    links: Mapping[str, str],
    files: Collection[str],
    folders: _Folders,
    spend: Callable[[str], None],
) -> Iterator[tuple[str, str]]:
    """Yield the files of a linked folder; a link inside it that leads back up is not followed again.

    Folders count as files do: ten of them, each with ten links to the next, are as many paths as it likes.
    """
    todo: list[tuple[str, str, tuple[str, ...]]] = [(link, real, (real,))]
    while todo:
        shown, folder, above = todo.pop()
        for child in folders.inside(folder):
            place = f"{shown}/{child.rpartition('/')[2]}"
            if len(place) > MAX_PATH:
                continue
            target = _real(child, links) if child in links else child
            if target is None or target in above or (target not in files and target not in folders):
                continue
            spend(place)
            if target in files:
                yield place, target
            else:
                todo.append((place, target, (*above, target)))


def _real(path: str, links: Mapping[str, str]) -> str | None:
    """Return the path without links; None where it leaves the source, goes too far or does not end."""
    done: list[str] = []  # the path to each folder on the way
    todo = deque(path.split("/"))
    hops = steps = 0
    while todo:
        part = todo.popleft()
        steps += 1
        if steps > MAX_STEPS or len(done) > MAX_FOLDERS + 1:
            return None
        if part in ("", "."):
            continue
        if part == "..":
            if not done:
                return None
            done.pop()
            continue
        done.append(f"{done[-1]}/{part}" if done else part)
        target = links.get(done[-1])
        if target is not None:
            hops += 1
            if hops > MAX_HOPS or target.startswith("/"):
                return None
            done.pop()
            todo.extendleft(reversed(target.split("/", MAX_STEPS)))
    return done[-1] if done else ""


class _Folders:
    """The folders of a source, found in its sorted paths.

    A set of the folders themselves can take hundreds of times the memory of the paths, which may be deep.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = sorted(paths)

    def __contains__(self, folder: str) -> bool:
        """Tell whether there is anything in a folder; "" is the source itself."""
        return next(self._inside(folder), None) is not None

    def inside(self, folder: str) -> list[str]:
        """Return the paths of the files and folders in a folder, sorted."""
        return sorted(set(self._inside(folder)))

    def _inside(self, folder: str) -> Iterator[str]:
        start = f"{folder}/" if folder else ""
        place = bisect_left(self._paths, start)
        while place < len(self._paths) and (path := self._paths[place]).startswith(start):
            end = path.find("/", len(start))
            yield path if end < 0 else path[:end]
            # Past all that is inside it: the character after "/" is "0".
            place = place + 1 if end < 0 else bisect_left(self._paths, f"{path[:end]}0", place)
