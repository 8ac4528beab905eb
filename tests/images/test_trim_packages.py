"""What the service's image leaves out of its packages."""

from __future__ import annotations

import importlib.util
import site
import subprocess
import sys
from pathlib import Path

import pytest

from images.trim_packages import SERVICE, UNUSED, compile_what_is_imported, trim


def test_it_removes_what_matches_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a/tests/data.bin", "a/b/tests/more.bin", "a/code.py", "a/lib.so.1", "a/code.pyi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1234")
    assert trim(tmp_path, ["a/*.so.*", "**/tests", "**/*.pyi"]) == 16
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["code.py"]


def test_an_entry_that_matches_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a/\*\.so matches nothing in .*; take it off the list"):
        trim(tmp_path, ["a/*.so"])


@pytest.mark.parametrize("pattern", UNUSED)
def test_every_entry_matches_something_today(pattern: str) -> None:
    folders = [Path(one) for one in site.getsitepackages()]
    assert any(next(folder.glob(pattern), None) for folder in folders)


def test_every_module_to_compile_is_there() -> None:
    assert [name for name in SERVICE if importlib.util.find_spec(name) is None] == []


def test_what_is_imported_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_of_a_test").mkdir()
    for name in ("__init__", "used", "unused"):
        (tmp_path / "package_of_a_test" / f"{name}.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    compile_what_is_imported(["package_of_a_test.used"])
    compiled = {path.name.partition(".")[0] for path in tmp_path.rglob("*.pyc")}
    assert compiled == {"__init__", "used"}


def test_a_module_that_is_gone_fails_the_build() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        compile_what_is_imported(["sys", "no_such_module_of_a_test"])


def test_it_needs_nothing_but_python() -> None:
    root = str(Path(__file__).parents[2])
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {root!r}); import images.trim_packages",
    ]
    assert subprocess.run(command, capture_output=True).returncode == 0
