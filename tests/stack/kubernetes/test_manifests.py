"""`make kubernetes-up` and what goes with it on a real cluster: `local` from nothing to a restored champion."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from deploy import rotate
from deploy.env_file import parse
from deploy.kubernetes.cluster import BEFORE
from tests.tasks.serving.samples import picture

from .state import Load, State, running

pytestmark = pytest.mark.kubernetes
REGISTER = ("python", "-m", "tests.stack.kubernetes.champion")
REMOVE_OBJECTS = """
import os, boto3
s3 = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
for found in s3.list_objects_v2(Bucket=os.environ["S3_BUCKET"])["Contents"]:
    s3.delete_object(Bucket=os.environ["S3_BUCKET"], Key=found["Key"])
"""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    with running(f"vm-test-manifests-{secrets.token_hex(3)}", tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture(scope="module")
def champion(state: State) -> dict[str, Any]:
    """The first champion, registered from this machine, in service in every pod."""
    told = dict(json.loads(state.forwarded(*REGISTER, "012").splitlines()[-1]))
    assert told["version"] == "1"
    state.kubectl("rollout", "status", "deployment/serving", "--timeout=1800s")
    return told


def pods(state: State) -> dict[str, tuple[str, int]]:
    """UID and restarts of each pod that serves; Jobs' are made anew."""
    return {
        pod["metadata"]["name"]: (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
        for pod in state.objects("pods", "--selector", "app.kubernetes.io/name notin (bucket,export-onnx)")
    }


def stored_secrets(state: State) -> list[dict[str, Any]]:
    """Our Secrets in both namespaces."""
    ours = ("secrets", "--selector", "app.kubernetes.io/part-of=vision-mlops")
    return [one for where in (state.name, state.stages) for one in state.objects(*ours, namespace=where)]


def answer(state: State) -> dict[str, Any]:
    """What the service says of a bright picture."""
    session = requests.Session()
    session.trust_env = False
    response = session.post(f"{state.service}/predict_image", files={"image": picture(255)}, timeout=120)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_without_a_champion_all_is_well_and_the_service_waits(state: State) -> None:
    done = state.verify()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accepts the login of .env; there is no champion yet" in done.stdout
    assert done.stdout.count("has no model") == 2, "the autoscaler's least, without a metrics server too"
    said = " ".join(done.stdout.split())
    for line in ("statefulset/postgres 1 of 1", "statefulset/s3 1 of 1", "deployment/mlflow 2 of 2", "job/bucket done"):
        assert f"ok {line}" in said


def test_a_second_time_restarts_nothing(state: State) -> None:
    before = pods(state)
    done = state.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "restarting" not in done.stdout
    assert pods(state) == before


@pytest.mark.long
def test_keys_that_the_store_was_not_started_with_are_told_in_one_line(state: State, tmp_path: Path) -> None:
    other = tmp_path / ".env"
    other.write_text(state.env_file.read_text() + "S3_SECRET_KEY=another-than-before\n")
    done = state.up(other)
    assert (done.returncode, done.stderr.count("\n")) == (69, 1)
    assert "kubernetes-up: job/bucket is not ready: pod bucket-" in done.stderr
    assert "refuses S3_ACCESS_KEY and S3_SECRET_KEY for bucket 'mlflow' (" in done.stderr
    verified = state.verify(other)
    assert "refuses S3_ACCESS_KEY" in next(line for line in verified.stdout.splitlines() if "job/bucket" in line)
    done = state.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed: Secret" in done.stdout


def test_verify_finds_a_login_that_mlflow_refuses(state: State, tmp_path: Path) -> None:
    other = tmp_path / ".env"
    other.write_text(state.env_file.read_text() + "MLFLOW_TRACKING_PASSWORD=another-than-before\n")
    done = state.verify(other)
    assert done.returncode == 1
    assert "refuses the login of .env" in done.stdout


def test_no_secret_stands_in_clear(state: State) -> None:
    stored = stored_secrets(state)
    values = {base64.b64decode(value).decode() for secret in stored for value in secret["data"].values()}
    # A user name is none, and the address of a database holds one of the others.
    values -= {state.variables["MLFLOW_TRACKING_USERNAME"]}
    assert len(values) > 10
    kinds = "pods,deployments,replicasets,statefulsets,jobs,configmaps,services,serviceaccounts,events"
    seen = state.kubectl("get", kinds, "--output", "json", "--show-managed-fields")
    seen += json.dumps([secret["metadata"] for secret in stored])
    assert [value for value in values if value in seen] == []
    assert [value for value in values if base64.b64encode(value.encode()).decode() in seen] == []


def test_the_champion_reaches_every_pod(state: State, champion: dict[str, Any]) -> None:
    done = state.verify()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "champion is version 1" in done.stdout
    assert done.stdout.count("serves version 1") == 2
    assert "deployment/serving 2 of 2 ready" in " ".join(done.stdout.split())
    assert (answer(state)["class"], str(answer(state)["model_version"])) == ("bright", "1")


def test_a_rolling_update_under_load_fails_no_request(state: State, champion: dict[str, Any]) -> None:
    before = pods(state)
    load = Load(state.service)
    with load.applied(anew=2, kept=2):
        state.kubectl("rollout", "restart", "deployment/serving")
        state.kubectl("rollout", "status", "deployment/serving", "--timeout=1800s")
        # The last of the old ones is still leaving.
        old = [f"pod/{name}" for name in before if name.startswith("serving-")]
        state.kubectl("wait", "--for=delete", *old, "--timeout=1800s")
    print(f"{dict(load.answers)}, slowest {load.slowest:.1f} s")
    assert set(load.answers) == {"200"}, load.answers
    assert load.answers["200"] > 500
    assert {name for name in pods(state) if name.startswith("serving-")}.isdisjoint(before)


# MinIO takes its root's keys from its environment at every start; Ceph, which may stand in for it, does not.
NEW_KEY = """if command -v radosgw-admin >/dev/null; then
radosgw-admin key create --uid={old} --key-type=s3 --access-key={new} --secret-key={secret} >/dev/null
fi"""


def test_a_rotation_replaces_every_secret_while_the_service_answers(state: State, champion: dict[str, Any]) -> None:
    old = dict(state.variables)
    new = parse(rotate.prepare(state.env_file).read_text())
    key = NEW_KEY.format(old=old["S3_ACCESS_KEY"], new=new["S3_ACCESS_KEY"], secret=new["S3_SECRET_KEY"])
    state.kubectl("exec", "statefulset/s3", "--", "sh", "-c", key)
    load = Load(state.service)
    with load.applied(anew=1, kept=1):
        done = state.deploy("kubernetes-rotate", "--overlay", state.overlay, "--env-file", state.env_file)
        assert done.returncode == 0, done.stdout + done.stderr
        state.kubectl("rollout", "status", "deployment/serving", "--timeout=1800s")
    assert set(load.answers) == {"200"}, load.answers
    assert parse(state.env_file.read_text()) == new
    state.variables.update(new)
    changed = {name: value for name, value in old.items() if new[name] != value}
    assert len(changed) >= 16
    stored = json.dumps(stored_secrets(state))
    assert base64.b64encode(new["MLFLOW_STAGES_PASSWORD"].encode()).decode() in json.dumps(
        state.objects("secrets", namespace=state.stages)
    )
    assert [name for name, value in changed.items() if base64.b64encode(value.encode()).decode() in stored] == []
    verified = state.verify()
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads(state.forwarded(*REGISTER).splitlines()[-1]) == champion, "read with the new passwords"


@pytest.mark.long  # the same flow runs on Docker every time: tests/stack/test_backup.py
def test_a_backup_brings_back_champion_and_artifact(state: State, champion: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "saved.backup"
    saved = state.backup(file)
    assert saved.returncode == 0, saved.stdout + saved.stderr
    assert file.stat().st_mode & 0o777 == 0o600

    # Another champion, and nothing left of the first one's files.
    state.kubectl("exec", "deployment/mlflow", "--container", "mlflow", "--", "python", "-c", REMOVE_OBJECTS)
    assert json.loads(state.forwarded(*REGISTER, "210").splitlines()[-1])["version"] == "2"

    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.backup").write_bytes(content)
    changed = state.restore(tmp_path / "changed.backup", "--force")
    assert (changed.returncode, changed.stdout, changed.stderr.count("\n")) == (65, "", 1)
    refused = state.restore(file)
    assert (refused.returncode, refused.stderr.count("\n")) == (73, 1)
    assert "FORCE=1 replaces it" in refused.stderr

    load = Load(state.service)
    with load.applied(anew=1, kept=1):
        restored = state.restore(file, "--force")
        assert restored.returncode == 0, restored.stdout + restored.stderr
        state.kubectl("rollout", "status", "deployment/serving", "--timeout=1800s")
    print(f"{dict(load.answers)}, slowest {load.slowest:.1f} s")
    assert set(load.answers) == {"200"}, "the service answers on, with the model it has"

    assert json.loads(state.forwarded(*REGISTER).splitlines()[-1]) == champion
    assert (answer(state)["class"], str(answer(state)["model_version"])) == ("bright", "1")
    done = state.verify()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("serves version 1") == 2
    [mlflow] = [one for one in state.objects("deployments") if one["metadata"]["name"] == "mlflow"]
    assert mlflow["spec"]["replicas"] == 2
    assert not [name for name in mlflow["metadata"]["annotations"] if "restore" in name]


@pytest.mark.long
def test_a_restore_that_was_killed_is_told_and_the_next_one_goes_on(state: State, tmp_path: Path) -> None:
    stopped = {"metadata": {"annotations": {BEFORE: "2"}}, "spec": {"replicas": 0}}  # as far as it came
    state.kubectl("patch", "deployment", "mlflow", "--type", "merge", "--patch", json.dumps(stopped))
    up, verified = state.up(), state.verify()
    assert (up.returncode, up.stderr.count("\n")) == (69, 1)
    assert "a restore stopped MLflow and did not finish; run make kubernetes-restore again" in up.stderr
    assert verified.returncode == 1
    assert "had 2 pods, stopped by a restore that did not finish" in verified.stdout
    saved = state.backup(tmp_path / "saved.backup")
    assert saved.returncode == 0, saved.stdout + saved.stderr
    assert state.up().returncode == 0
    assert state.verify().returncode == 0
