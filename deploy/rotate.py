"""Replace every secret of the stack by a new one, while it runs; on Kubernetes: kubernetes/rotate.py.

The new values are first written to `.env.next`. Called again after an interruption, the command goes on with these:

1. Each user of Postgres changes its own password. Sessions stay.
2. Airflow encrypts its connections and variables again, with the new Fernet key.
3. `.env.next` becomes `.env`, and what reads a changed value starts again. MLflow and Airflow's administrator take over
   their passwords then, and the store its keys.

Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from deploy import backup_encryption, engine, store_keys, up
from deploy.backup_stack import last_line
from deploy.env_file import ROOT, read
from deploy.errors import USAGE, DeployError
from deploy.setup_env import SECRETS, STORE_KEYS
from deploy.store_policies import VARIABLES
from tasks.files import replacing

API_KEY = "SERVING_API_KEY"  # of clients; rotated where one is set
OF_THE_STORE = ("S3_ACCESS_KEY", "S3_SECRET_KEY", *VARIABLES)
FERNET = "AIRFLOW_FERNET_KEY"
# Postgres' users with their databases, and the variables of their passwords. `monitoring` gets its own from its own
# program, at every start.
DATABASE_USERS = {
    ("postgres", "postgres"): "POSTGRES_PASSWORD",
    ("mlflow", "mlflow"): "POSTGRES_MLFLOW_PASSWORD",
    ("mlflow_auth", "mlflow_auth"): "POSTGRES_MLFLOW_AUTH_PASSWORD",
    ("airflow", "airflow"): "POSTGRES_AIRFLOW_PASSWORD",
}
KEPT = {"GRAFANA_ADMIN_PASSWORD"}  # Grafana reads it at its first start only (docs/how-to/monitoring.md)
CHANGE_PASSWORDS = Path(__file__).resolve().with_name("change_passwords.py")


class Place(ABC):
    """Where the stack runs."""

    postgres: str = "postgres"  # its host, as MLflow's container reaches it
    kept: frozenset[str] = frozenset()  # secrets that are not changed here

    @abstractmethod
    def require_read(self, names: Sequence[str]) -> None:
        """Require that these variables are read from `.env` and nowhere else.

        Raises:
            DeployError: one is not.
        """

    @abstractmethod
    def in_mlflow(self, program: str, text: str) -> str:
        """Run a Python program in MLflow's container and return what it printed; `text` is its input."""

    @abstractmethod
    def encrypt_again(self, following: Path, keys: str) -> None:
        """Let Airflow encrypt with the first of these keys, separated by a comma, what any of them decrypts."""

    @abstractmethod
    def start(self, env_file: Path) -> None:
        """Start again what reads a changed value, and wait until it is healthy."""


class Compose(Place):
    """The stack on Docker."""

    def __init__(self, env_file: Path) -> None:
        """Note which services run, since they are to run afterwards.

        Raises:
            DeployError: no engine answers.
        """
        self._env_file = env_file
        try:
            self._running = engine.services_running(read(env_file)) - {up.EXPORT}
        except OSError as error:
            raise DeployError(f"{error}; start Docker Engine and the stack (make up)") from None

    def require_read(self, names: Sequence[str]) -> None:
        """See Place; Compose prefers the environment."""
        if hidden := sorted(set(names) & set(os.environ)):
            raise DeployError(f"the environment sets {', '.join(hidden)}, which overrides .env; unset it", USAGE)

    def in_mlflow(self, program: str, text: str) -> str:
        """See Place."""
        command = ("exec", "--no-TTY", "mlflow", "python", "-c", program)
        return _output(engine.compose(engine.STATE, *command, env_file=self._env_file), "MLflow", text=text)

    def encrypt_again(self, following: Path, keys: str) -> None:
        """See Place; in a container of its own, because those that run have the old password of Postgres."""
        variable = "AIRFLOW__CORE__FERNET_KEY"
        options = ["--rm", "--no-deps", "--no-TTY", "--env", variable]  # its value: from the environment of the command
        command = ["run", *options, "airflow-scheduler", "airflow", "rotate-fernet-key"]
        _output(engine.compose(engine.WORK, *command, env_file=following), "Airflow", environment={variable: keys})

    def start(self, env_file: Path) -> None:
        """See Place."""
        up.start(ROOT, env_file, sorted(self._running) or None)
        store_keys.forget_old(env_file)  # not before: what ran until now used them


def rotated(values: Mapping[str, str], keep: Sequence[str] = ()) -> dict[str, str]:
    """Return a new value for every secret that is set here and not kept.

    Raises:
        DeployError: `keep` names what is no secret of the stack.
    """
    if unknown := sorted(set(keep) - {*SECRETS, *STORE_KEYS, API_KEY}):
        raise DeployError(f"KEEP={' '.join(keep)}: {unknown[0]} is no secret of the stack", USAGE)
    outside = (
        OF_THE_STORE if values.get("S3_ENDPOINT_URL") else ()
    )  # a store outside the stack: its keys are made there
    kept = {*KEPT, *keep, *outside}
    names = [name for name in (*SECRETS, *STORE_KEYS, API_KEY) if values.get(name) and name not in kept]
    makers = SECRETS | STORE_KEYS | {API_KEY: SECRETS["RAY_AUTH_TOKEN"]}
    new = {name: makers[name]() for name in names}
    if backup_encryption.VARIABLE in new:  # earlier backups stay readable
        new[backup_encryption.VARIABLE] += f",{values[backup_encryption.VARIABLE]}"
    return new


def prepare(env_file: Path, keep: Sequence[str] = (), also: Iterable[str] = ()) -> Path:
    """Write `.env.next`, unless an interrupted rotation left one; return its path.

    Args:
        env_file: `.env` of the stack.
        keep: secrets that the caller wants to keep.
        also: those that are not changed where the stack runs.

    Raises:
        DeployError: `keep` is given to a rotation that has chosen its secrets already.
    """
    following = env_file.with_name(f"{env_file.name}.next")
    if following.exists():
        if keep:
            raise DeployError(f"{following} is of a rotation that did not end; end it without KEEP first", USAGE)
        return following
    values = rotated(read(env_file), [*keep, *also])
    lines = [_with(line, values) for line in env_file.read_text(encoding="utf-8").splitlines()]
    with replacing(following) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return following


def rotate(place: Place, env_file: Path, keep: Sequence[str] = ()) -> list[str]:
    """Rotate the secrets and return the names of those that are new.

    Raises:
        DeployError: MLflow or Postgres does not run, or a step failed; call again to go on.
    """
    old = read(env_file)
    following = prepare(env_file, keep, place.kept)
    new = read(following)
    changed = sorted(name for name in new if new[name] != old.get(name))
    place.require_read(changed)
    users = [(*user, old[name], new[name]) for user, name in DATABASE_USERS.items() if name in changed]
    given = json.dumps({"host": place.postgres, "users": users, "airflow": new["POSTGRES_AIRFLOW_PASSWORD"]})
    has_airflow = place.in_mlflow(CHANGE_PASSWORDS.read_text(encoding="utf-8"), given).strip() == "True"
    if FERNET in changed and has_airflow:
        place.encrypt_again(following, f"{new[FERNET]},{old[FERNET]}")
    following.replace(env_file)
    try:
        place.start(env_file)
    except DeployError as error:
        fix = f"{env_file} has the new secrets; correct this, then run make up or make kubernetes-up"
        raise DeployError(f"{error}\n{fix}", error.code) from None
    return changed


def _with(line: str, values: Mapping[str, str]) -> str:
    name, equals, _ = line.partition("=")
    return f"{name}={values[name.strip()]}" if equals and name.strip() in values else line


def _output(command: Sequence[str], what: str, *, text: str = "", environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(  # noqa: S603  # compose, arguments of ours
        command, input=text, env={**os.environ, **(environment or {})}, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = last_line((done.stdout + done.stderr).encode())
        raise DeployError(f"{what}: {said}; correct this, then run make rotate again, which goes on")
    return done.stdout
