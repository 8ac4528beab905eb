from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy import bucket_check


@pytest.mark.parametrize("url", ["", "here:9000", "ftp://here"])
def test_what_is_not_an_address_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        bucket_check.head_bucket(url, "a-bucket", ("access", "secret"), "us-east-1")


def test_a_port_that_nobody_listens_on_is_an_error_of_the_connection() -> None:
    with pytest.raises(OSError, match="Could not connect"):
        bucket_check.head_bucket("http://127.0.0.1:9", "a-bucket", ("access", "secret"), "us-east-1")


@pytest.mark.parametrize(("boto3", "venv", "restarts"), [(True, True, 0), (False, True, 1), (False, False, 0)])
def test_doctor_continues_in_venv_where_only_that_has_boto3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boto3: bool, venv: bool, restarts: int
) -> None:
    calls: list[list[str]] = []
    if venv:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/python").touch()
    monkeypatch.setattr(bucket_check, "VENV", tmp_path)
    monkeypatch.setattr(bucket_check, "available", lambda: boto3)
    monkeypatch.setattr(os, "execv", lambda _, arguments: calls.append(arguments))
    bucket_check.restart_in_venv(["doctor"])
    assert calls == [[str(tmp_path / "bin/python"), "-m", "deploy", "doctor"]] * restarts
