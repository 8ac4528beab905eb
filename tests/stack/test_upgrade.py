"""`make upgrade` on a stack that runs: to a release whose MLflow does not start, and then to one that does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from deploy.env_file import parse
from deploy.setup_env import complete
from tests.upgrade import checkout
from tests.waiting import until

from .conftest import FIRST_PORT, PROJECT, ROOT, Stack, _bare_environment

pytestmark = pytest.mark.docker
NAME = f"{PROJECT}-upgraded"
MLFLOW, SERVING = (f"http://127.0.0.1:{FIRST_PORT + port}" for port in (60, 62))
START = "images/mlflow/start.py"
BEFORE_USERS = "        import programs  # it reads the configuration\n"
# A migration that cannot be undone, which then fails.
BROKEN = """        with closing(_connect(os.environ["MLFLOW_BACKEND_STORE_URI"])) as spoiling:
            spoiling.autocommit = True
            spoiling.cursor().execute("DROP TABLE registered_model_aliases")
            spoiling.cursor().execute("UPDATE alembic_version SET version_num = 'unheard-of'")
        print("mlflow: the new schema does not work", flush=True)
        sys.exit(UNAVAILABLE)
"""


@dataclass(frozen=True)
class Clone:
    """A clone of this repository, and the stack that it starts."""

    root: Path
    stack: Stack

    @property
    def env_file(self) -> Path:
        """Of the stack."""
        return self.root / ".env"

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy", *arguments]
        environment = _bare_environment() | {"PYTHONPATH": str(self.root)}
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=1800)

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        command = ["git", "-C", str(self.root), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def change(self, what: str) -> str:
        """Commit a change of MLflow's start program, relative to this repository's; return the commit."""
        text = (ROOT / START).read_text()
        assert BEFORE_USERS in text
        (self.root / START).write_text(text.replace(BEFORE_USERS, what + BEFORE_USERS))
        self.git("commit", "--quiet", "--all", "--allow-empty", "--message", "A change of MLflow's start program")
        return self.git("rev-parse", "HEAD")

    def running(self) -> str:
        """The commit that MLflow's image is of."""
        label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
        command = ["docker", "inspect", "--format", label, f"{NAME}-mlflow-1"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def holds(self) -> tuple[str, str, float]:
        """The champion, the value of its run's metric, and whether the service answers."""
        client = MlflowClient(MLFLOW)
        champion = client.get_model_version_by_alias("kept", "champion")
        assert requests.get(f"{SERVING}/livez", timeout=120).status_code == 200
        return champion.version, str(champion.run_id), client.get_run(champion.run_id).data.metrics["accuracy"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """The release before, running, with a champion."""
    root = checkout.of_working_tree(tmp_path_factory.mktemp("upgraded") / "clone").root
    text, _ = complete("", (ROOT / ".env.example").read_text())
    own = {"STACK_NAME": NAME, "PIPELINE_DOCKER_NETWORK": NAME, "PIPELINE_IMAGE_TAG": NAME, "MLFLOW_WORKERS": "1"}
    ports = ("MLFLOW_PORT", "S3_PORT", "SERVING_PORT")
    own |= {name: str(FIRST_PORT + 60 + number) for number, name in enumerate(ports)}
    variables = parse(text) | own
    stack = Stack(root / ".env", variables)
    clone = Clone(root, stack)
    clone.env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    clone.git("init", "--quiet")
    clone.git("add", "--all")
    clone.change("")
    stack.remove()
    try:
        built = subprocess.run(
            [sys.executable, "-m", "images", "build"], cwd=root, env=_bare_environment(), timeout=1800
        )
        assert built.returncode == 0
        done = clone.deploy("up", "serving")
        assert done.returncode == 0, done.stdout + done.stderr
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", stack.login[0])
            patch.setenv("MLFLOW_TRACKING_PASSWORD", stack.login[1])
            client = MlflowClient(MLFLOW)
            run = client.create_run(client.create_experiment("kept"))
            client.log_metric(run.info.run_id, "accuracy", 0.98)
            client.create_registered_model("kept")
            model = client.create_logged_model(run.info.experiment_id, "model", run.info.run_id)
            client.create_model_version("kept", f"models:/{model.model_id}", run.info.run_id, model_id=model.model_id)
            client.set_registered_model_alias("kept", "champion", "1")
            yield clone
    finally:
        stack.remove()
        listed = ["docker", "image", "ls", "--filter", f"reference=*/*:{NAME}*", "--format", "{{.Repository}}:{{.Tag}}"]
        names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
        subprocess.run(["docker", "image", "rm", *names], check=True, capture_output=True)


def test_what_runs_already_is_not_upgraded(clone: Clone) -> None:
    done = clone.deploy("upgrade")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.endswith("runs already; what changed in .env takes effect with make up; nothing was changed\n")


def test_an_upgrade_that_fails_brings_back_release_and_databases(clone: Clone) -> None:
    before, held, env = clone.running(), clone.holds(), parse(clone.env_file.read_text())
    new = clone.change(BROKEN)
    with (clone.root / ".env.example").open("a") as example:
        example.write("\nNEW_SETTING=of-the-new-release\n")
    done = clone.deploy("upgrade")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"upgrading from {before[:12]} to {new[:12]}" in done.stdout
    assert f"upgrade: going back to {before[:12]}\n" in done.stderr
    assert done.stderr.endswith(f"upgrade: {before[:12]} runs again, with everything that it had\n")
    assert (clone.running(), clone.holds()) == (before, held)
    assert parse(clone.env_file.read_text()) == env | {"NEW_SETTING": "of-the-new-release"}
    assert not list((clone.root / "backups").iterdir())


@pytest.mark.long
def test_after_an_upgrade_that_was_killed_the_next_call_goes_back(clone: Clone) -> None:
    before, held = clone.running(), clone.holds()
    clone.change(BROKEN)
    command = [sys.executable, "-m", "deploy", "upgrade"]
    process = subprocess.Popen(command, cwd=clone.root, env=_bare_environment(), start_new_session=True)
    until((clone.root / "backups" / "upgrade" / "databases.backup").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = clone.deploy("upgrade")
    assert done.returncode == 69, done.stdout + done.stderr
    assert f"an upgrade had not ended; {before[:12]} runs as before it" in done.stderr
    assert (clone.running(), clone.holds()) == (before, held)


def test_an_upgrade_keeps_everything(clone: Clone) -> None:
    held = clone.holds()
    new = clone.change('        print("mlflow: upgraded", flush=True)\n')
    done = clone.deploy("upgrade")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{new[:12]} runs after ")
    assert (clone.running(), clone.holds()) == (new, held)
    assert [file.suffix for file in (clone.root / "backups").iterdir()] == [".backup"]
    assert not list((clone.root / ".local" / "releases").iterdir())
