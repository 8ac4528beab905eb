from __future__ import annotations

from pathlib import Path

import pytest

from deploy.curl_line import line


def test_the_file_is_named_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = "curl -F image=@.local/sample.png http://127.0.0.1:3000/predict_image"
    assert line(tmp_path / ".local/sample.png", {}) == expected


def test_the_key_is_left_to_the_readers_shell() -> None:
    text = line(Path("/a.png"), {"SERVING_API_KEY": "hunter2", "SERVING_URL": "http://here:3001"})
    assert text == 'curl -H "Authorization: Bearer $SERVING_API_KEY" -F image=@/a.png http://here:3001/predict_image'
