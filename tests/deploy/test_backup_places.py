"""Many files of a bucket come in one stream, and only those that are not here yet."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from deploy import backup_store_client
from deploy.backup_places import Bucket
from deploy.backup_stack import ComposeStack

CLIENT = """
import io, sys
from deploy import backup_store_client
class Store:
    def get_object(self, Bucket, Key):
        content = f"content of {Key}".encode()
        return {"ContentLength": len(content), "Body": io.BytesIO(content)}
assert sys.argv[1:] == ["get-all"], sys.argv
backup_store_client.get_all(Store(), "kept", sys.stdin.read().split(), sys.stdout.buffer)
"""


class WithStore(ComposeStack):
    """A stack whose programs run here, with a store that has every file."""

    def program(self, path: Path, *arguments: str, variables: Iterable[str] = ()) -> list[str]:
        return [sys.executable, "-c", CLIENT, *arguments]


def test_files_are_fetched_together_and_those_that_are_here_are_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("here")
    bucket = Bucket(tmp_path / "elsewhere", WithStore(Path("none")), {"BACKUP_BUCKET": "kept"})
    fetched = bucket.fetch_all(["one", "two", "three"], tmp_path)
    assert fetched == [tmp_path / name for name in ("one", "two", "three")]
    assert [file.read_text() for file in fetched] == ["content of one", "here", "content of three"]
    assert {file.name for file in tmp_path.iterdir()} == {"one", "two", "three"}


def test_the_client_writes_one_tar() -> None:
    class Store:
        def get_object(self, **_: str) -> dict[str, Any]:
            return {"ContentLength": 3, "Body": io.BytesIO(b"all")}

    target: IO[bytes] = io.BytesIO()
    backup_store_client.get_all(Store(), "kept", ["one", "two"], target)
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        assert archive.getnames() == ["one", "two"]
