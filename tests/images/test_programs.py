"""images/mlflow/programs.py, whose names other files repeat; what its users may do is in tests/stack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tasks.records import ledger, tracking
from tasks.settings import MLFLOW_REGISTRY_USER, MLFLOW_STAGES_USER, Settings

ROOT = Path(__file__).resolve().parents[2]
# Start twice on the same databases; between the starts a person has what an earlier release gave.
STARTS = """
import os
import programs
from mlflow.entities import RunTag
from mlflow.server.auth import store

programs.ensure()
store.create_user("ann", "a-long-password-1")
store.grant_user_permission("ann", "experiment", "*", "EDIT")
store.grant_user_permission("ann", "experiment", "1", "MANAGE")
tracking = programs.Tracking(os.environ["MLFLOW_BACKEND_STORE_URI"], programs.ROOT)
for name in ("of ann", "of another PIPELINE_EXPERIMENT"):
    experiment = tracking.create_experiment(name)
    tracking.create_run(experiment, "", 0, [RunTag("pipeline.stage", "train")], "")
store.grant_user_permission("ann", "experiment", "3", "MANAGE")
store.create_user("root", "a-long-password-1")
store.grant_user_permission("root", "experiment", "*", "MANAGE")
before = {user.username: user.password_hash for user in store.list_users()}
programs.ensure()
after = {user.username: user.password_hash for user in store.list_users()}
assert before == after, "a password that is right is not set again"
for name in sorted(after):
    rows = sorted(programs._found(store.get_user(name).id).items())
    grants = [f"{kind[:10]}:{which}={permission}" for (kind, which), permission in rows]
    print(name, store.get_user(name).is_admin, *grants)
print(programs.LEDGER, programs.DEFAULT_EXPERIMENT, programs.EXPERIMENT_TAGS)
"""
SAID = """\
mlflow: ann may read every experiment and edit none, as the role editor says
mlflow: ann owned experiment 1, which is the pipeline's; the permission was removed
boss True
ann False experiment:*=READ experiment:3=MANAGE
pipeline-registry False experiment:*=READ experiment:1=MANAGE experiment:2=EDIT experiment:4=MANAGE registered:*=MANAGE
pipeline-serving False experiment:*=READ registered:*=READ
pipeline-stages False experiment:*=READ experiment:1=MANAGE experiment:4=MANAGE registered:*=READ
root False experiment:*=MANAGE
"""


def test_a_start_makes_users_and_names_and_a_second_one_takes_back_what_nobody_should_have(tmp_path: Path) -> None:
    config = tmp_path / "basic_auth.ini"
    config.write_text(f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "images/mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_DATABASE_URI": f"sqlite:///{tmp_path}/auth.db",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_AUTH_ADMIN_USERNAME": "boss",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "of-the-administrator",
        "MLFLOW_STAGES_PASSWORD": "of-the-stages",
        "MLFLOW_REGISTRY_PASSWORD": "of-the-registry",
        "MLFLOW_SERVING_PASSWORD": "of-the-service",
    }
    done = subprocess.run([sys.executable, "-c", STARTS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = f"{ledger.EXPERIMENT} {Settings.model_fields['pipeline_experiment'].default} {tracking.EXPERIMENT_TAGS}"
    assert sorted(done.stdout.splitlines()) == sorted([*SAID.splitlines(), names])


def test_the_files_that_name_a_user_mean_the_same() -> None:
    text = (ROOT / "images/mlflow/programs.py").read_text(encoding="utf-8")
    serving = "pipeline-serving"
    assert f'STAGES, REGISTRY, SERVING = "{MLFLOW_STAGES_USER}", "{MLFLOW_REGISTRY_USER}", "{serving}"' in text
    services = yaml.safe_load((ROOT / "docker-compose-mlops.yml").read_text(encoding="utf-8"))["services"]
    assert services["serving"]["environment"]["MLFLOW_TRACKING_USERNAME"] == serving
    assert services["export-onnx"]["environment"]["MLFLOW_TRACKING_USERNAME"] == MLFLOW_REGISTRY_USER
    for file, user in (("deployment", serving), ("export-onnx", MLFLOW_REGISTRY_USER)):
        manifest = (ROOT / f"deploy/kubernetes/base/serving/{file}.yaml").read_text(encoding="utf-8")
        assert f"value: {user}\n" in manifest
    assert f"MLFLOW_TRACKING_USERNAME={MLFLOW_REGISTRY_USER} " in (ROOT / "deploy/env.sh").read_text(encoding="utf-8")
