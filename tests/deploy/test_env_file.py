from __future__ import annotations

from pathlib import Path

import pytest

from deploy import env_file
from deploy.errors import DeployError


def test_comments_and_empty_lines_are_skipped_and_values_kept_as_they_are() -> None:
    assert env_file.parse("# NAME=no\n\n  A=1 # 2\nB=\nC=a=b\n") == {"A": "1 # 2", "B": "", "C": "a=b"}


@pytest.mark.parametrize("line", ["no equals sign", "two words=x", "=hidden", "export A=b"])
def test_a_line_that_is_not_a_variable_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"A=1\n{line}\n")
    with pytest.raises(DeployError, match="line 2 is not NAME=value; correct the line") as error:
        env_file.read(tmp_path / ".env")
    assert error.value.code == 78
    assert line not in str(error.value)


def test_a_missing_file_names_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="is missing; run make setup") as error:
        env_file.read(tmp_path / ".env")
    assert error.value.code == 78


def test_the_environment_overrides_the_file_as_compose_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("STACK_NAME=of-the-file\nMLFLOW_PORT=5001\n")
    monkeypatch.setenv("STACK_NAME", "of-the-shell")
    values = env_file.read_as_compose(tmp_path / ".env")
    assert (values["STACK_NAME"], values["MLFLOW_PORT"]) == ("of-the-shell", "5001")


@pytest.mark.parametrize(
    ("value", "on"), [("", False), ("ray", True), ("celery, ray ", True), ("*", True), ("gray", False), (",", False)]
)
def test_a_profile_is_on_by_its_name_or_the_star(value: str, on: bool) -> None:
    assert env_file.has_profile({"COMPOSE_PROFILES": value}, "ray") is on
