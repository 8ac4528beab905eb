"""What is read through a pod's sidecar, without a cluster: its script runs in a shell of this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.kubernetes.cluster import LARGEST_RESULT, READ_RESULT, Cluster
from pipeline.kubernetes.pod import RESULT_PATH
from tasks.errors import ResultError, UnavailableError

Read = Callable[[], bytes | None]


@pytest.fixture
def result_file(tmp_path: Path) -> Path:
    return tmp_path / "return.json"


@pytest.fixture
def read(result_file: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads the file as a pod's would be read."""

    def execute(self: Cluster, name: str, script: str) -> str:
        here = script.replace(RESULT_PATH, str(result_file))
        return subprocess.run(["sh", "-c", here], capture_output=True, text=True, check=True).stdout

    monkeypatch.setattr(Cluster, "_execute", execute)
    return lambda: Cluster(None, "n").result("p")


@pytest.mark.parametrize("content", [b'{"a": 1}', b"", "Ä".encode() * 150_000, b" " * LARGEST_RESULT])
def test_the_file_comes_back_whole(read: Read, result_file: Path, content: bytes) -> None:
    result_file.write_bytes(content)
    assert read() == content


def test_no_file_is_none(read: Read) -> None:
    assert read() is None


def test_a_folder_is_refused(read: Read, result_file: Path) -> None:
    result_file.mkdir()
    with pytest.raises(ResultError, match="is not a file"):
        read()


def test_a_file_too_large_is_refused(read: Read, result_file: Path) -> None:
    result_file.write_bytes(b" " * (LARGEST_RESULT * 2))
    with pytest.raises(ResultError, match=f"has {LARGEST_RESULT * 2} bytes; a result has at most {LARGEST_RESULT}"):
        read()


@pytest.mark.parametrize("said", ["", "exec failed: no such container", "12\nnot base64!"])
def test_an_answer_that_is_torn_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(Cluster, "_execute", lambda self, name, script: said)
    with pytest.raises(UnavailableError, match="try again"):
        Cluster(None, "n").result("p")


def test_the_script_names_the_file_of_the_contract() -> None:
    assert f"f={RESULT_PATH};" in READ_RESULT
