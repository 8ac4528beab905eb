"""What is in `out`: the plan, the parts that are complete, and `_SUCCESS` at the end.

_plan.json                   what is predicted, by which model; written first
predictions/part-00000.*     the predictions of the first items of the source
failed/part-00000.*          of these, the files that could not be decoded; missing where there are none
_parts/part-00000.json       digests and counts of the two; written after them, so with it the part is complete
_SUCCESS                     JSON: the plan, all counts and all parts; written last
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks.errors import RequestError
from tasks.files import sha256
from tasks.prediction.answers import Position
from tasks.prediction.destinations import Destination
from tasks.prediction.part_files import FAILED, PREDICTIONS, PartFiles

PLAN, SUCCESS, PARTS = "_plan.json", "_SUCCESS", "_parts"
FOLDERS = (PREDICTIONS, FAILED, PARTS)


@dataclass(frozen=True)
class Plan:
    """What the parts depend on; parts of another plan are not mixed with these. `images` alone may change."""

    images: str
    images_sha256: str
    registered_model: str
    version: int
    model_sha256: str
    classes: tuple[str, ...]
    output_format: str
    part_images: int
    file_column: str | None
    name_encoding: str | None
    layout: int = 1


@dataclass(frozen=True)
class File:
    """One file of a part."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """A complete part: its counts, its files, and the position in the source behind it."""

    predicted: int
    failed: int
    files: tuple[File, ...]
    items: int
    digest: str

    @property
    def end(self) -> Position:
        """The position behind it."""
        return Position(self.items, self.digest)


@dataclass
class Output:
    """A destination with its complete parts."""

    place: Destination
    plan: Plan
    parts: list[Part] = field(default_factory=list)
    complete: bool = False

    @property
    def end(self) -> Position:
        """The position in the source behind the complete parts."""
        return self.parts[-1].end if self.parts else Position()

    @property
    def predicted(self) -> int:
        """Number of images that were classified."""
        return sum(part.predicted for part in self.parts)

    @property
    def failed(self) -> int:
        """Number of files that could not be decoded."""
        return sum(part.failed for part in self.parts)

    def add(self, files: PartFiles, folder: Path, end: Position) -> None:
        """Write the files of the next part, then what makes it complete.

        Args:
            files: the part.
            folder: where its files are.
            end: the position in the source behind it.
        """
        known = []
        for name in files.close():
            path = folder / name
            known.append(File(name, path.stat().st_size, sha256(path)))
            self.place.put(path, name)
        part = Part(files.counts[PREDICTIONS], files.counts[FAILED], tuple(known), end.items, end.digest)
        _put_json(self.place, asdict(part), _record(len(self.parts)))
        self.parts.append(part)

    def finish(self, ignored: int) -> None:
        """Write `_SUCCESS`; `ignored` is the number of files that were no images by their name."""
        counts = {"images": self.end.items, "predicted": self.predicted, "failed": self.failed, "ignored": ignored}
        _put_json(self.place, {**asdict(self.plan), **counts, "parts": [asdict(part) for part in self.parts]}, SUCCESS)
        self.complete = True


def begin(place: Destination, plan: Plan) -> Output:
    """Find what is complete of a plan in its destination; an empty one gets the plan.

    Raises:
        RequestError: the destination holds the predictions of another plan.
    """
    sizes = place.sizes(FOLDERS)
    stored = _read(place, PLAN, Plan) if PLAN in sizes else None
    if stored is None:
        others = [name for name in sizes if name == SUCCESS or "/" in name]
        if others:
            state = "a damaged" if PLAN in sizes else "no"
            raise RequestError(f"out={place.where!r} holds {others[0]!r} and {state} {PLAN}; give an out of its own")
        _put_json(place, asdict(plan), PLAN)
    else:
        _require_same(stored, plan, place.where)
    output = Output(place, plan)
    while (name := _record(len(output.parts))) in sizes:
        part = _read(place, name, Part)
        if part is None or any(sizes.get(file.name) != file.bytes for file in part.files):
            break
        output.parts.append(part)
    if SUCCESS in sizes and (said := _content(place, SUCCESS)) is not None:
        output.complete = said["images"] == output.end.items
    return output


def _require_same(stored: Plan, plan: Plan, where: str) -> None:
    for name, value in asdict(plan).items():
        before = getattr(stored, name)
        if name != "images" and before != value:
            fix = f", or model_version={before} to go on" if name == "version" else ""
            what = (
                "of another source" if name == "images_sha256" else f"with {name}={_short(before)}, not {_short(value)}"
            )
            raise RequestError(f"out={where!r} holds predictions {what}; give another out{fix}")


def _short(value: Any) -> str:
    return f"{value!r:.80}"


def _record(number: int) -> str:
    return f"{PARTS}/part-{number:05}.json"


def _read(place: Destination, name: str, kind: type[Any]) -> Any:
    """Read a file that this module wrote; None if it is half there or damaged."""
    content = _content(place, name)
    return None if content is None else TypeAdapter(kind).validate_python(content)


def _content(place: Destination, name: str) -> dict[str, Any] | None:
    try:
        found = json.loads(place.read(name))
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    digest = found.pop("sha256", None)
    return found if digest == _digest(found) else None


def _put_json(place: Destination, content: dict[str, Any], name: str) -> None:
    """Write a file with a digest of itself: a wrong bit in a store that is a folder must not pass for another plan."""
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        path = Path(folder) / name.rpartition("/")[2]
        whole = {**content, "sha256": _digest(content)}
        path.write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")
        place.put(path, name)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
