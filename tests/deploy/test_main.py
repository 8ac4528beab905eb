"""The command line of `python3 -m deploy`: what it takes, and that it runs before anything is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.__main__ import main, parser

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["up", "--fast"], ["user", "ann"], ["forward"]])
def test_what_is_unknown_or_missing_gets_help_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: python3 -m deploy" in capsys.readouterr().err


def test_it_needs_no_installed_package() -> None:
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import deploy.__main__",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forwarded_command_keeps_its_options() -> None:
    given = parser().parse_args(["forward", "--namespace", "mine", "--store", "--", "curl", "--fail", "-x", "a"])
    assert (given.namespace, given.store, given.command) == ("mine", True, ["curl", "--fail", "-x", "a"])


def test_an_error_is_one_line_that_begins_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--env-file", str(tmp_path / ".env")]) == 78
    assert capsys.readouterr().err == f"up: {tmp_path / '.env'} is missing; run make setup\n"
