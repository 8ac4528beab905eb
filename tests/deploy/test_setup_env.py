"""`.env`: fresh secrets once, kept ever after."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from deploy import env_file, setup_env
from deploy.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "# comment\nMLFLOW_PORT=\nMLFLOW_TRACKING_USERNAME=admin\nPOSTGRES_PASSWORD=\nAIRFLOW_FERNET_KEY=\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    return tmp_path


def test_a_new_file_holds_the_example_with_secrets_filled(folder: Path) -> None:
    assert main(["setup", str(folder)]) == 0
    text = (folder / ".env").read_text()
    values = env_file.parse(text)
    assert text.startswith("# comment\nMLFLOW_PORT=\nMLFLOW_TRACKING_USERNAME=admin\n")
    assert len(bytes.fromhex(values["POSTGRES_PASSWORD"])) == 24
    assert len(base64.urlsafe_b64decode(values["AIRFLOW_FERNET_KEY"])) == 32


def test_only_the_owner_reads_it(folder: Path) -> None:
    main(["setup", str(folder)])
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600


def test_a_loose_mode_is_tightened(folder: Path) -> None:
    main(["setup", str(folder)])
    (folder / ".env").chmod(0o644)
    main(["setup", str(folder)])
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600


def test_a_second_call_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["setup", str(folder)])
    first = (folder / ".env").read_text()
    capsys.readouterr()
    assert main(["setup", str(folder)]) == 0
    assert (folder / ".env").read_text() == first
    assert capsys.readouterr().out == ""


def test_what_is_missing_is_added_and_the_rest_kept(folder: Path) -> None:
    (folder / ".env").write_text("POSTGRES_PASSWORD=mine\nOTHER=kept\nMLFLOW_PORT=5001\n")
    main(["setup", str(folder)])
    values = env_file.parse((folder / ".env").read_text())
    assert values["POSTGRES_PASSWORD"] == "mine"
    assert values["OTHER"] == "kept"
    assert values["MLFLOW_PORT"] == "5001"
    assert values["MLFLOW_TRACKING_USERNAME"] == "admin"
    assert values["AIRFLOW_FERNET_KEY"]


def test_an_empty_secret_is_filled(folder: Path) -> None:
    (folder / ".env").write_text("POSTGRES_PASSWORD=\n")
    main(["setup", str(folder)])
    assert env_file.parse((folder / ".env").read_text())["POSTGRES_PASSWORD"]


def test_two_machines_have_no_secret_in_common() -> None:
    example = (ROOT / ".env.example").read_text()
    one, other = (env_file.parse(setup_env.complete("", example)[0]) for _ in range(2))
    assert all(one[name] and one[name] != other[name] for name in setup_env.SECRETS)


def test_no_secret_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["setup", str(folder)])
    printed = capsys.readouterr()
    values = env_file.parse((folder / ".env").read_text())
    assert values["POSTGRES_PASSWORD"] not in printed.out + printed.err


@pytest.mark.parametrize("line", ["no equals sign", "two words=x", "=hidden", "export A=b"])
def test_a_line_that_is_no_variable_stops_it_without_change(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (folder / ".env").write_text(f"POSTGRES_PASSWORD=mine\n{line}\n")
    assert main(["setup", str(folder)]) == 78
    assert (folder / ".env").read_text() == f"POSTGRES_PASSWORD=mine\n{line}\n"
    error = capsys.readouterr().err
    assert "line 2 is not NAME=value" in error
    assert line not in error


def test_a_failed_write_leaves_no_half_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        main(["setup", str(folder)])
    assert [path.name for path in folder.iterdir()] == [".env.example"]
