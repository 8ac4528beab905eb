"""What a node of the profile `ray` starts with."""

from __future__ import annotations

import pytest

from tasks.__main__ import main
from tasks.errors import SettingsError
from tasks.search import node
from tasks.settings import load_settings

GIB = 2**30
STACK = {"S3_ACCESS_KEY": "stack-user", "S3_SECRET_KEY": "stack-s3cret", "RAY_AUTH_TOKEN": "t0ken"}


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STACK.items():
        monkeypatch.setenv(name, value)


def test_a_worker_can_write_checkpoints_where_the_search_keeps_its_state() -> None:
    given = node.environment_of("worker", load_settings().with_the_stacks_ray())
    assert given["AWS_ENDPOINT_URL"] == "http://s3:9000"
    assert given["AWS_ACCESS_KEY_ID"] == "stack-user"
    assert given["AWS_SECRET_ACCESS_KEY"] == "stack-s3cret"
    assert (given["RAY_AUTH_MODE"], given["RAY_AUTH_TOKEN"]) == ("token", "t0ken")


def test_the_head_has_no_keys_and_runs_no_trial() -> None:
    given = node.environment_of("head", load_settings().with_the_stacks_ray())
    assert not [name for name in given if name.startswith("AWS_")]
    command = node.command_of("head", None, GIB)
    assert {"--head", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"} <= set(command)


def test_objects_fit_into_the_shared_memory_of_the_container() -> None:
    command = node.command_of("worker", "ray-head:6379", GIB)
    asked = [int(part.split("=")[1]) for part in command if part.startswith("--object-store-memory=")]
    assert len(asked) == 1
    assert 0.5 * GIB < asked[0] < 0.9 * GIB
    assert "--address=ray-head:6379" in command


@pytest.mark.parametrize(
    ("role", "missing", "words"), [("head", "RAY_AUTH_TOKEN", "make setup"), ("worker", "RAY_ADDRESS", "HOST:PORT")]
)
def test_a_node_without_what_it_needs_names_it_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str, missing: str, words: str
) -> None:
    monkeypatch.delenv(missing, raising=False)
    assert main(["ray-node", role]) == SettingsError.exit_code
    said = capsys.readouterr().err.strip()
    assert missing in said
    assert words in said
    assert "\n" not in said


def test_another_role_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ray-node", "boss"]) == 2
    assert "'boss' is not one of 'head', 'worker'" in capsys.readouterr().err
