"""What is read out of a container that has ended, without an engine: the answers are those of a real one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from pipeline.docker import engine
from tasks.errors import ResultError


class Engine:
    """Answers `get_archive` as the Docker API does: a tar stream, and the size of what it holds."""

    def __init__(self, member: tarfile.TarInfo | None, content: bytes = b"") -> None:
        self._member = member
        self._content = content
        self.taken = 0

    def get_archive(self, container: str, path: str) -> tuple[Iterator[bytes], dict[str, Any]]:
        if self._member is None:
            raise NotFound(f"Could not find the file {path} in container {container}")
        whole = io.BytesIO()
        with tarfile.open(fileobj=whole, mode="w") as archive:
            archive.addfile(self._member, io.BytesIO(self._content))
        return self._chunks(whole.getvalue()), {"size": self._member.size}

    def _chunks(self, whole: bytes) -> Iterator[bytes]:
        for start in range(0, len(whole), 1 << 16):
            self.taken += 1
            yield whole[start : start + (1 << 16)]


def file(content: bytes) -> Engine:
    member = tarfile.TarInfo("return.json")
    member.size = len(content)
    return Engine(member, content)


def folder() -> Engine:
    member = tarfile.TarInfo("return.json")
    member.type = tarfile.DIRTYPE
    return Engine(member)


def test_the_file_comes_back_whole() -> None:
    content = b"{" + b" " * 200_000 + b"}"
    assert engine.fetch_result(file(content), "c") == content


def test_no_file_is_none() -> None:
    assert engine.fetch_result(Engine(None), "c") is None


@pytest.mark.parametrize(
    ("made", "text"),
    [(folder, "is not a file"), (lambda: file(b" " * (1 << 21)), "has 2097152 bytes; a result has at most 1048576")],
)
def test_a_folder_or_a_file_too_large_is_refused(made: Callable[[], Engine], text: str) -> None:
    with pytest.raises(ResultError, match=text):
        engine.fetch_result(made(), "c")


def test_a_file_too_large_is_still_read_to_its_end() -> None:
    """The engine would otherwise hold the container, and its removal."""
    found = file(b" " * (1 << 21))
    with pytest.raises(ResultError):
        engine.fetch_result(found, "c")
    assert found.taken > 32


def test_folders_are_mounted_at_their_place_for_reading_only() -> None:
    assert [dict(mount) for mount in engine.read_only({"/mnt/a b", "/data"})] == [
        {"Type": "bind", "Source": "/data", "Target": "/sources/data", "ReadOnly": True},
        {"Type": "bind", "Source": "/mnt/a b", "Target": "/sources/mnt/a b", "ReadOnly": True},
    ]


def test_a_folder_that_the_engine_does_not_have_is_named() -> None:
    error = APIError("", explanation="invalid mount config: bind source path does not exist: /data")
    said = str(engine.explain(error, "image", "net"))
    assert said.startswith("PIPELINE_SOURCE_ROOTS names a folder that the Docker engine's machine lacks")
    assert said.endswith("/data")
