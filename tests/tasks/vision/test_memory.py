from __future__ import annotations

from pathlib import Path

import pytest

from tasks.vision.memory import available_memory

MIB = 2**20


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"memory.max": "max"}, 8 * MIB),
        ({"memory.max": f"{3 * MIB}"}, 3 * MIB),
        ({"memory.max": f"{30 * MIB}"}, 8 * MIB),
        ({"memory/memory.limit_in_bytes": f"{3 * MIB}"}, 3 * MIB),
        ({}, 8 * MIB),
    ],
)
def test_the_smaller_of_what_the_machine_has_left_and_the_limit_of_the_container(
    tmp_path: Path, limit: dict[str, str], expected: int
) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in limit.items():
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "meminfo").write_text("MemTotal:       90000 kB\nMemFree: 5 kB\nMemAvailable:    8192 kB\n")
    assert available_memory(tmp_path, tmp_path / "meminfo") == expected


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path / "meminfo") is None
