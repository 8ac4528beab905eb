"""Which secrets `make rotate` replaces; the rotation of a running stack is in tests/stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import backup_encryption, rotate
from deploy.__main__ import main
from deploy.env_file import parse
from deploy.errors import DeployError
from deploy.setup_env import SECRETS, complete

EXAMPLE = (Path(__file__).resolve().parents[2] / ".env.example").read_text(encoding="utf-8")


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_text(complete("", EXAMPLE)[0].replace("SERVING_API_KEY=", "SERVING_API_KEY=given-to-clients"))
    path.chmod(0o600)
    return path


def test_every_secret_is_replaced_and_nothing_else(env_file: Path) -> None:
    before = env_file.read_text()
    following = rotate.prepare(env_file)
    assert env_file.read_text() == before
    assert following.stat().st_mode & 0o777 == 0o600
    old, new = parse(before), parse(following.read_text())
    assert {name for name in old if old[name] != new[name]} == {*SECRETS, "SERVING_API_KEY"} - rotate.KEPT
    assert [line.partition("=")[0] for line in before.splitlines()] == [
        line.partition("=")[0] for line in following.read_text().splitlines()
    ]
    assert len({new[name] for name in SECRETS}) == len(SECRETS)


def test_a_rotation_that_was_interrupted_goes_on_with_its_values(env_file: Path) -> None:
    text = rotate.prepare(env_file).read_text()
    assert rotate.prepare(env_file).read_text() == text
    with pytest.raises(DeployError, match="of a rotation that did not end"):
        rotate.prepare(env_file, ["SERVING_API_KEY"])


def test_a_key_that_was_never_set_stays_so_and_that_of_a_store_outside_is_made_there(env_file: Path) -> None:
    values = parse(env_file.read_text()) | {"SERVING_API_KEY": "", "S3_ENDPOINT_URL": "https://s3.example.org"}
    assert not {"SERVING_API_KEY", *rotate.OF_THE_STORE} & set(rotate.rotated(values))


def test_what_is_to_be_kept_is_kept(env_file: Path) -> None:
    values = parse(env_file.read_text())
    found = rotate.rotated(values, ["SERVING_API_KEY", "AIRFLOW_FERNET_KEY"])
    assert set(SECRETS) - rotate.KEPT - set(found) == {"AIRFLOW_FERNET_KEY"}
    with pytest.raises(DeployError, match="MLFLOW_PORT is no secret of the stack"):
        rotate.rotated(values, ["MLFLOW_PORT"])


def test_backups_of_before_stay_readable(env_file: Path) -> None:
    before = backup_encryption.keys(parse(env_file.read_text()))
    after = backup_encryption.keys(parse(rotate.prepare(env_file).read_text()))
    assert after[1:] == before
    assert len(set(after)) == 2


def test_a_value_in_the_environment_would_hide_the_new_one(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = env_file.read_text()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-shell")
    with pytest.raises(DeployError, match="the environment sets RAY_AUTH_TOKEN, which"):
        rotate.rotate(rotate.Compose(env_file), env_file)
    assert env_file.read_text() == before


def test_without_an_engine_it_is_one_line_and_nothing_changes(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = env_file.read_text()
    monkeypatch.setenv("PATH", str(env_file.parent))
    assert main(["rotate", "--env-file", str(env_file)]) == 69
    assert capsys.readouterr().err == "rotate: no command docker; start Docker Engine and the stack (make up)\n"
    assert env_file.read_text() == before
