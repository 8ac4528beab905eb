"""The keys per purpose of the stack's own store: when they are made, when they are not, and what each may do."""

from __future__ import annotations

import json
import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from deploy import second_stack, store_keys, store_policies, up
from deploy.env_file import parse, read
from deploy.errors import DeployError
from deploy.setup_env import STORE_KEYS, complete
from deploy.store_policies import PURPOSES, VARIABLES, Purpose, bucket_policy, user_policy

ROOT = Path(__file__).resolve().parents[2]
# An engine that writes down what it is asked. `exec` is the store's tool, `run` tries the keys: each prints what is in
# a file of its name, or fails with what is in `NAME.fails`.
DOCKER = """#!/bin/sh
echo "$*" >>{folder}/asked
for action in exec run; do
  case " $* " in *" $action "*)
    cat >>{folder}/$action.input
    if [ -e {folder}/$action.fails ]; then cat {folder}/$action.fails >&2; exit 1; fi
    cat {folder}/$action 2>/dev/null ;;
  esac
done
exit 0
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docker").write_text(DOCKER.format(folder=tmp_path))
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "exec").write_text("ceph owner\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in parse((ROOT / ".env.example").read_text()):
        monkeypatch.delenv(name, raising=False)
    text, _ = complete("", (ROOT / ".env.example").read_text())
    (tmp_path / ".env").write_text(text)
    return tmp_path


def asked(engine: Path, action: str) -> list[str]:
    return [line for line in (engine / "asked").read_text().splitlines() if f" {action} " in f" {line} "]


def may(policy: dict[str, Any], action: str, resource: str, user: str | None = None) -> bool:
    """Judge as S3 does: what is denied is not allowed, and what is not allowed neither."""
    effects = [
        one["Effect"]
        for one in policy["Statement"]
        if any(fnmatchcase(action, pattern) for pattern in one["Action"])
        and any(fnmatchcase(resource, pattern) for pattern in one["Resource"])
        and (user is None or one["Principal"] == {"AWS": [f"arn:aws:iam:::user/{user}"]})
    ]
    return "Allow" in effects and "Deny" not in effects


@pytest.mark.parametrize("purpose", PURPOSES, ids=lambda purpose: purpose.name)
@pytest.mark.parametrize("place", PURPOSES, ids=lambda place: f"in {place.name}")
def test_a_purpose_reads_writes_and_deletes_in_its_own_place_only(purpose: Purpose, place: Purpose) -> None:
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"):
        key = f"arn:aws:s3:::team/{place.prefix}1/x"
        assert may(user_policy(purpose, "team"), action, key) is (purpose is place)
        assert may(bucket_policy("team", "root"), action, key, store_policies.user_name(purpose)) is (purpose is place)
        assert may(bucket_policy("team", "root"), action, key, "root")


@pytest.mark.parametrize("purpose", PURPOSES, ids=lambda purpose: purpose.name)
def test_no_purpose_changes_the_bucket_or_reaches_another(purpose: Purpose) -> None:
    policy = user_policy(purpose, "team")
    assert may(policy, "s3:ListBucket", "arn:aws:s3:::team")
    for action in ("s3:PutBucketPolicy", "s3:DeleteBucket", "s3:PutLifecycleConfiguration", "s3:PutObjectAcl"):
        assert not may(policy, action, "arn:aws:s3:::team")
    assert not may(policy, "s3:GetObject", f"arn:aws:s3:::team-2/{purpose.prefix}x")


def test_keys_are_written_once_the_store_took_them_and_each_opens_its_own_place_only(engine: Path) -> None:
    env_file = engine / ".env"
    before = read(env_file)
    store_keys.ensure(env_file, before)
    after = read(env_file)
    assert {name: value for name, value in after.items() if before[name] != value} == {n: after[n] for n in VARIABLES}
    assert len({after[name] for name in VARIABLES}) == len(VARIABLES)
    assert all(3 <= len(after[name]) <= 20 for name in VARIABLES if name.endswith("ACCESS_KEY"))
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    made = (engine / "exec.input").read_text().splitlines()
    assert [line.split(" ")[0] for line in made] == [store_policies.user_name(purpose) for purpose in PURPOSES]
    tried = json.loads((engine / "run.input").read_text())
    assert tried["policy"] == bucket_policy("mlflow", "owner")
    for name in VARIABLES:  # everyone on this host can read arguments
        assert after[name] not in (engine / "asked").read_text()


def test_keys_that_work_are_left_alone(engine: Path) -> None:
    env_file = engine / ".env"
    store_keys.ensure(env_file, read(env_file))
    first = env_file.read_text()
    (engine / "asked").unlink()
    store_keys.ensure(env_file, read(env_file))
    assert env_file.read_text() == first
    assert asked(engine, "exec") == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("exec.fails", "this store has neither radosgw-admin nor mc"),
        ("run", "the key of logs can read in the place of artifacts"),
    ],
)
def test_where_the_store_cannot_everything_goes_on_with_one_key(
    engine: Path, capsys: pytest.CaptureFixture[str], file: str, text: str
) -> None:
    before = (engine / ".env").read_text()
    (engine / file).write_text(text)
    assert up.make_store_keys(engine / ".env") is None
    said = capsys.readouterr().err
    assert said == f"every program uses S3_ACCESS_KEY: {text} (docs/stack.md, Keys of the store)\n"
    assert (engine / ".env").read_text() == before


def test_keys_of_the_env_that_the_store_refuses_stop_the_start(engine: Path) -> None:
    store_keys.write(engine / ".env", {name: make() for name, make in STORE_KEYS.items()})
    (engine / "run").write_text("the key of tune cannot read in the place of tune")
    refused = up.make_store_keys(engine / ".env")
    assert isinstance(refused, DeployError)
    assert "the key of tune cannot read" in str(refused)
    assert "to go back to one key" in str(refused)


def test_half_a_set_of_keys_is_refused_by_name(engine: Path) -> None:
    store_keys.write(engine / ".env", {"S3_LOGS_ACCESS_KEY": "logs-1"})
    refused = up.make_store_keys(engine / ".env")
    assert "S3_LOGS_SECRET_KEY, S3_TUNE_ACCESS_KEY, S3_TUNE_SECRET_KEY empty" in str(refused)
    assert asked(engine, "exec") == []


def test_a_store_outside_is_asked_nothing(engine: Path) -> None:
    (engine / ".env").write_text("S3_ENDPOINT_URL=https://s3.example.org\n")
    assert up.make_store_keys(engine / ".env") is None
    assert not (engine / "asked").exists()


def test_keys_are_added_to_an_env_that_does_not_name_them(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# mine\nS3_ACCESS_KEY=root\n")
    store_keys.write(tmp_path / ".env", {"S3_TUNE_ACCESS_KEY": "tune-1"})
    assert (tmp_path / ".env").read_text() == "# mine\nS3_ACCESS_KEY=root\nS3_TUNE_ACCESS_KEY=tune-1\n"


def test_a_second_stack_whose_store_is_empty_uses_one_key() -> None:
    assert not {second_stack.different({}, "drill")[name] for name in VARIABLES} - {""}
