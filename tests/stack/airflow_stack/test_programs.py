"""What each program of the stack can do, tried in its container; docs/threat-model.md shows the table."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import docker
import pytest

from deploy.setup_env import SECRETS, STORE_KEYS
from pipeline.socket_proxy.creation import WRITABLE
from tasks.contract.stages import STAGES
from tests.stack import role_tables
from tests.stack.airflow_stack import attempts
from tests.stack.airflow_stack.conftest import FILE, User
from tests.stack.conftest import PROJECT, ROOT, TAG, Stack, build_images
from tests.stack.mlflow_world import World, prepared

pytestmark = pytest.mark.docker
NOBODY = "a client without a login"
LOG = "airflow-logs/tried.log"
NAME = f"attack-{secrets.token_hex(4)}"  # other sessions have the same engine
OF_THE_STATE = "docker-compose.yml"
# Printed by the scheduler, which is what gives stages their environment.
ENVIRONMENTS = """
import json
from pipeline.operator.job import container_environment, container_secrets
from tasks.contract.stages import STAGES
from tasks.settings import load_settings
given = {}
for name, stage in STAGES.items():
    request, settings = stage.request.model_construct(), load_settings()
    given[name] = container_environment(name, request, settings) | container_secrets(name, request, settings)
print(json.dumps(given))
"""


@dataclass(frozen=True)
class Program:
    """Something that runs on the stack: how to start a Python in its place."""

    name: str
    command: list[str]
    environment: dict[str, str]

    def attempt(self, at: dict[str, Any]) -> dict[str, Any]:
        """Try everything; return what could be done, and the values of the environment."""
        script = Path(attempts.__file__).read_text(encoding="utf-8")
        command = [*self.command, "-", json.dumps(at)]
        done = subprocess.run(
            command, input=script, capture_output=True, text=True, timeout=600, env=os.environ | self.environment
        )
        assert done.returncode == 0, f"{self.name}: {done.stderr[-3000:]}"
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


def contained(name: str, image: str, environment: dict[str, str]) -> Program:
    """A container as the operator starts it, with another entry point."""
    variables = [option for variable in environment for option in ("--env", variable)]
    restrictions = ["--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges"]
    command = ["docker", "run", "--rm", "--interactive", "--network", PROJECT, *restrictions, *variables]
    return Program(name, [*command, "--entrypoint", "python", f"vision-mlops/{image}:{TAG}"], environment)


def composed(airflow: Stack) -> Iterator[Program]:
    """Every service with an image of ours: in its container, or in one like it where none runs."""
    for file in (OF_THE_STATE, FILE):
        options = ["docker", "compose", "--file", str(ROOT / file), "--env-file", str(airflow.env_file)]
        options += ["--profile", "*"]
        services = json.loads(airflow.compose("--profile", "*", "config", "--format", "json", file=file))["services"]
        running = airflow.states(file)
        for name, service in sorted(services.items()):
            if not service["image"].startswith("vision-mlops/"):
                continue  # Postgres, the store and other servers, which hold what is asked for here
            if running.get(name) in ("healthy", "running"):
                command = [*options, "exec", "-T", name, "python"]
            else:
                command = [*options, "run", "--rm", "--no-deps", "-T", "--entrypoint", "python", name]
            yield Program(name, command, {})


@pytest.fixture(scope="module")
def programs(airflow: Stack) -> list[Program]:
    build_images(*STAGES)
    given = subprocess.run(
        ["docker", "exec", f"{PROJECT}-work-airflow-scheduler-1", "python", "-c", ENVIRONMENTS],
        capture_output=True,
        text=True,
        check=True,
    )
    environments = json.loads(given.stdout.splitlines()[-1])
    assert set(environments) == set(STAGES)
    stages = [contained(f"stage {name}", name, values) for name, values in environments.items()]
    return [contained(NOBODY, "deploy", {}), *stages, *composed(airflow)]


@pytest.fixture(scope="module")
def world(airflow: Stack) -> World:
    return prepared(airflow, "of-the-programs")


@pytest.fixture(scope="module")
def found(airflow: Stack, admin: User, world: World, programs: list[Program]) -> Iterator[dict[str, dict[str, Any]]]:
    """What each program could do, and the values of its environment."""
    s3 = boto3.client(
        "s3",
        endpoint_url=airflow.s3_url,
        region_name="us-east-1",
        aws_access_key_id=airflow.variables["S3_ACCESS_KEY"],
        aws_secret_access_key=airflow.variables["S3_SECRET_KEY"],
    )
    s3.put_object(Bucket="mlflow", Key=LOG, Body=b"a line")
    users = admin.ask("GET", "/auth/fab/v1/users/admin").json()
    at = {
        **{"experiment": world.experiment, "ledger": world.ledger, "model": world.model, "version": world.version()},
        **{"log": LOG, "administrator": users.get("id", 1), "stage": a_stage()},
    }
    engine = docker.from_env()
    answers = {}
    try:
        for number, program in enumerate(programs):
            own = {"run": world.run(), "container": f"{NAME}-{number}", "user": f"{NAME}-{number}"}
            answers[program.name] = program.attempt(at | own)
        yield answers
    finally:
        for made in engine.containers.list(all=True, filters={"name": NAME}):
            made.remove(force=True, v=True)


def a_stage() -> dict[str, Any]:
    """What the operator creates a container of register with."""
    fields = ("key", "stage", "dag_id", "dag_run_id", "task_id")
    volumes = [{"Target": path, "Type": "volume", "ReadOnly": False} for path in WRITABLE]
    return {
        **{"Tty": False, "OpenStdin": False, "StdinOnce": False, "AttachStdin": False, "AttachStdout": True},
        **{"AttachStderr": True, "NetworkDisabled": False},
        "Env": [],
        "Cmd": ["register", "--request", "{}"],
        "Image": docker.from_env().images.get(f"vision-mlops/register:{TAG}").id,
        "Labels": {f"pipeline.{field}": "register" for field in fields},
        "HostConfig": {
            **{"Memory": 96 << 20, "MemorySwap": 96 << 20, "ShmSize": 32 << 20, "Mounts": volumes},
            **{"ReadonlyRootfs": True, "NetworkMode": PROJECT, "CapDrop": ["ALL"], "Init": True},
            "SecurityOpt": ["no-new-privileges:true"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "2"}},
        },
    }


def test_every_program_can_do_what_the_document_says_and_no_more(found: dict[str, dict[str, Any]]) -> None:
    actions = [*found[NOBODY]["done"]]
    role_tables.check("Programs", actions, ((name, answer["done"]) for name, answer in found.items()))


def test_every_program_has_the_secrets_that_the_document_says_and_no_more(
    airflow: Stack, found: dict[str, dict[str, Any]]
) -> None:
    column = "secrets of `.env`"

    def of(values: list[str]) -> str:
        held = [name for name in (*SECRETS, *STORE_KEYS) if any(airflow.variables[name] in value for value in values)]
        return ", ".join(f"`{name}`" for name in held) or "-"

    rows = ((name, {column: of(answer["environment"])}) for name, answer in found.items())
    role_tables.check("Secrets", [column], rows)
