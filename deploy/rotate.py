"""Replace every secret of the stack by a new one, while it runs.

The new values are first written to `.env.next`. Called again after an interruption, the command goes on with these:

1. Postgres gives its users their new passwords, all or none. Sessions stay.
2. Airflow encrypts its connections and variables again, with the new Fernet key.
3. `.env.next` becomes `.env`, and what reads a changed value starts again. MLflow and Airflow's administrator take over
   their passwords then, and the store its keys.

Standard library only.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy import engine, up
from deploy.backup_stack import ComposeStack, last_line
from deploy.env_file import ROOT, read
from deploy.errors import USAGE, DeployError
from deploy.setup_env import SECRETS
from tasks.files import replacing

API_KEY = "SERVING_API_KEY"  # of clients; rotated where one is set
OF_THE_STORE = ("S3_ACCESS_KEY", "S3_SECRET_KEY")
FERNET = "AIRFLOW_FERNET_KEY"
# Postgres' users, and the variables of their passwords. `monitoring` gets its own from its own program, at every start.
DATABASE_USERS = {
    "postgres": "POSTGRES_PASSWORD",
    "mlflow": "POSTGRES_MLFLOW_PASSWORD",
    "mlflow_auth": "POSTGRES_MLFLOW_AUTH_PASSWORD",
    "airflow": "POSTGRES_AIRFLOW_PASSWORD",
}
KEPT = {"GRAFANA_ADMIN_PASSWORD"}  # Grafana reads it at its first start only (docs/how-to/monitoring.md)
HAS_AIRFLOW = "SELECT to_regclass('public.connection') IS NOT NULL"


def rotated(values: Mapping[str, str], keep: Sequence[str] = ()) -> dict[str, str]:
    """Return a new value for every secret that is set here and not kept.

    Raises:
        DeployError: `keep` names what is no secret of the stack.
    """
    secrets = [name for name in (*SECRETS, API_KEY) if name not in KEPT and values.get(name)]
    if unknown := sorted(set(keep) - {*SECRETS, API_KEY}):
        raise DeployError(f"KEEP={' '.join(keep)}: {unknown[0]} is no secret of the stack", USAGE)
    if values.get("S3_ENDPOINT_URL"):
        keep = (*keep, *OF_THE_STORE)  # a store outside the stack: its keys are made there
    return {name: SECRETS.get(name, SECRETS["RAY_AUTH_TOKEN"])() for name in secrets if name not in keep}


def prepare(env_file: Path, keep: Sequence[str] = ()) -> Path:
    """Write `.env.next`, unless an interrupted rotation left one; return its path.

    Raises:
        DeployError: `keep` is given to a rotation that has chosen its secrets already.
    """
    following = env_file.with_name(f"{env_file.name}.next")
    if following.exists():
        if keep:
            raise DeployError(f"{following} is of a rotation that did not end; end it without KEEP first", USAGE)
        return following
    values = rotated(read(env_file), keep)
    lines = [_with(line, values) for line in env_file.read_text(encoding="utf-8").splitlines()]
    with replacing(following) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return following


def rotate(env_file: Path, keep: Sequence[str] = ()) -> list[str]:
    """Rotate the secrets and return the names of those that are new.

    Raises:
        DeployError: Postgres does not run, or a step failed; call again to go on.
    """
    old = read(env_file)
    following = prepare(env_file, keep)
    new = read(following)
    changed = sorted(name for name in new if new[name] != old.get(name))
    if overridden := sorted(name for name in changed if os.environ.get(name, new[name]) != new[name]):
        raise DeployError(f"the environment sets {', '.join(overridden)}, which overrides .env; unset it", USAGE)
    running = _running(old)
    stack = ComposeStack(env_file)
    stack.require_running()
    stack.sql("".join(["BEGIN;\n", *_alterations(old, new), "COMMIT;\n"]))
    if new[FERNET] != old[FERNET] and stack.sql(HAS_AIRFLOW, "airflow") == "t":
        _encrypt_again(following, new[FERNET], old[FERNET])
    following.replace(env_file)
    try:
        up.start(ROOT, env_file, sorted(running) or None)
    except DeployError as error:
        fix = f"{env_file} has the new secrets; correct this, then run make up"
        raise DeployError(f"{error}\n{fix}", error.code) from None
    return changed


def _running(values: Mapping[str, str]) -> set[str]:
    try:
        return engine.services_running(values) - {up.EXPORT}
    except OSError as error:
        raise DeployError(f"{error}; start Docker Engine and the stack (make up)") from None


def _with(line: str, values: Mapping[str, str]) -> str:
    name, equals, _ = line.partition("=")
    return f"{name}={values[name.strip()]}" if equals and name.strip() in values else line


def _alterations(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return the statements that set new passwords; they hold no quotes (`setup_env.SECRETS`)."""
    changed = {user: new[name] for user, name in DATABASE_USERS.items() if new[name] != old.get(name)}
    return [f"ALTER ROLE {user} PASSWORD '{password}';\n" for user, password in changed.items()]


def _encrypt_again(env_file: Path, new: str, old: str) -> None:
    """Let Airflow encrypt with the new key what the old one, or an interrupted rotation's, can decrypt."""
    variable = "AIRFLOW__CORE__FERNET_KEY"
    options = ["--rm", "--no-deps", "--no-TTY", "--env", variable]  # its value: from the environment of the command
    command = engine.compose(
        engine.WORK, "run", *options, "airflow-scheduler", "airflow", "rotate-fernet-key", env_file=env_file
    )
    environment = os.environ | {variable: f"{new},{old}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603  # compose
    if done.returncode != 0:
        said = last_line((done.stdout + done.stderr).encode())
        raise DeployError(f"Airflow: {said}; correct this, then run make rotate again, which goes on")
