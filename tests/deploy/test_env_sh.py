"""`deploy/env.sh`, sourced by the Makefile, in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_docker_takes_the_variables_of_env_and_those_of_the_shell_first(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/env.sh", tmp_path / "deploy")
    (tmp_path / ".env").write_text("# SERVING_PORT=1\nMLFLOW_PORT=5001\nS3_BUCKET=\nSTACK_NAME=of-the-file\n")
    command = '. deploy/env.sh docker && echo "$STACK_NAME $MLFLOW_TRACKING_URI $SERVING_URL ${S3_BUCKET-unset}"'
    shell = ["bash", "-euo", "pipefail", "-c", command]
    environment = {"PATH": "/usr/bin:/bin", "STACK_NAME": "of-the-shell"}
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "of-the-shell http://127.0.0.1:5001 http://127.0.0.1:3000 unset\n", done.stderr


@pytest.mark.parametrize(
    ("given", "login"),
    [
        ({}, "pipeline-registry of-registry"),
        ({"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "of-ann"}, "ann of-ann"),
    ],
)
def test_commands_log_in_to_the_stack_as_its_stages_do_and_never_as_administrator(
    tmp_path: Path, given: dict[str, str], login: str
) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/env.sh", tmp_path / "deploy")
    values = "MLFLOW_TRACKING_USERNAME=admin\nMLFLOW_TRACKING_PASSWORD=of-admin\nMLFLOW_REGISTRY_PASSWORD=of-registry\n"
    (tmp_path / ".env").write_text(values)
    command = '. deploy/env.sh docker && echo "$MLFLOW_TRACKING_USERNAME $MLFLOW_TRACKING_PASSWORD"'
    shell = ["bash", "-euo", "pipefail", "-c", command]
    environment = {"PATH": "/usr/bin:/bin", **given}
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{login}\n", done.stderr


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("rules/policies.yaml", "{root}/rules/policies.yaml"),  # as Compose reads it
        ("/etc/policies.yaml", "/etc/policies.yaml"),
        ('{"models": {}}', '{"models": {}}'),
        ("", ""),
    ],
)
def test_the_file_of_rules_is_found_from_every_folder(tmp_path: Path, given: str, read: str) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/env.sh", tmp_path / "deploy")
    shell = ["bash", "-euo", "pipefail", "-c", '. ../deploy/env.sh && echo "$PIPELINE_POLICIES"']
    environment = {"PATH": "/usr/bin:/bin", "PIPELINE_POLICIES": given}
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(shell, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True)
    assert done.stdout == read.replace("{root}", str(tmp_path)) + "\n", done.stderr


@pytest.mark.parametrize(
    ("given", "address"),
    [({}, "sqlite:///{home}/mlflow.db"), ({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, "http://mlflow:5000")],
)
@pytest.mark.parametrize("runtime", ["", " local"])
def test_local_names_the_store_that_stages_use_by_default(
    tmp_path: Path, runtime: str, given: dict[str, str], address: str
) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/env.sh", tmp_path / "deploy")
    command = f'. deploy/env.sh{runtime} && echo "$PIPELINE_RUNTIME $MLFLOW_TRACKING_URI $AIRFLOW_HOME"'
    environment = {"PATH": "/usr/bin:/bin", **given}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    home = tmp_path.resolve() / ".local"
    assert done.stdout == f"local {address.format(home=home)} {home}/airflow\n", done.stderr
    if not given:
        assert Settings(pipeline_home=home, mlflow_tracking_uri=None).tracking_uri == address.format(home=home)


def test_a_runtime_without_its_env_file_ends_with_its_code_and_leaves_the_shell_open(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/env.sh", tmp_path / "deploy")
    command = ["bash", "-c", ". deploy/env.sh docker; echo $?"]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.stdout == "78\n"
    assert done.stderr == "env.sh: there is no .env; run make setup\n"


def test_kubernetes_takes_what_the_clusters_airflow_is_told_and_not_its_addresses(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/env.sh", tmp_path / "deploy")
    (tmp_path / ".env").write_text("MLFLOW_PORT=5001\nS3_BUCKET=of-the-file\nSTACK_NAME=of-the-file\n")
    with (tmp_path / ".env").open("a") as file:  # of the stack on Docker, whose store is another one
        file.write("S3_TUNE_ACCESS_KEY=of-docker\nS3_ACCESS_KEY=root\n")
    kubectl = tmp_path / "kubectl"  # what `kubectl get configmap` prints by the template
    told = "MLFLOW_TRACKING_URI=http://mlflow:5000\\nPIPELINE_STAGE_SERVING_URL=http://serving-pods:3000\\nS3_BUCKET=told\\n"
    kubectl.write_text(f"#!/bin/sh\n[ \"$2\" = mine ] && printf '{told}'\n")
    kubectl.chmod(0o755)
    shown = "$PIPELINE_RUNTIME $MLFLOW_TRACKING_URI $PIPELINE_STAGE_SERVING_URL $S3_BUCKET $STACK_NAME"
    shown += " ${S3_TUNE_ACCESS_KEY-unset} $S3_ACCESS_KEY"
    shell = ["bash", "-euo", "pipefail", "-c", f'. deploy/env.sh kubernetes && echo "{shown}"']
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "NAMESPACE": "mine"}
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = "kubernetes http://127.0.0.1:5001 http://serving-pods:3000 told of-the-file unset root\n"
    assert done.stdout == said, done.stderr
    for given in ("mine", "mine-stages"):  # where an earlier release had both in one namespace, this variable named it
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PIPELINE_KUBERNETES_NAMESPACE": given}
        assert subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout == said
    done = subprocess.run(shell, cwd=tmp_path, env=environment | {"NAMESPACE": "no"}, capture_output=True, text=True)
    assert done.returncode == 78
    assert "namespace no has no settings; run make kubernetes-up" in done.stderr


@pytest.mark.parametrize(
    ("told", "stages"), [("PIPELINE_KUBERNETES_NAMESPACE=mine-stages\\n", "mine-stages"), ("", "mine")]
)
def test_stages_run_where_the_settings_say_and_where_they_say_nothing_as_before(
    tmp_path: Path, told: str, stages: str
) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/env.sh", tmp_path / "deploy")
    (tmp_path / ".env").write_text("PIPELINE_KUBERNETES_NAMESPACE=of-the-file\n")
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\nprintf 'PIPELINE_STAGE_SERVING_URL=http://serving-pods:3000\\n{told}'\n")
    kubectl.chmod(0o755)
    shown = '. deploy/env.sh kubernetes && echo "$NAMESPACE $PIPELINE_KUBERNETES_NAMESPACE"'
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "NAMESPACE": "mine"}
    command = ["bash", "-euo", "pipefail", "-c", shown]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"mine {stages}\n", done.stderr
