"""Write `.env`: every variable of `.env.example`, each empty secret replaced by a random one.

An existing `.env` keeps its values; new variables are added to it, and empty secrets are filled in.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from pathlib import Path

from deploy.env_file import parse
from deploy.errors import CONFIG, DeployError
from deploy.store_policies import PURPOSES
from tasks.files import replacing


def _hex() -> str:
    """192 random bits that need no quoting in a URL, a shell or an INI file."""
    return secrets.token_hex(24)


def _fernet() -> str:
    """32 random bytes encoded as cryptography's Fernet expects."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


SECRETS: dict[str, Callable[[], str]] = {
    "MLFLOW_TRACKING_PASSWORD": _hex,
    "MLFLOW_STAGES_PASSWORD": _hex,
    "MLFLOW_REGISTRY_PASSWORD": _hex,
    "MLFLOW_SERVING_PASSWORD": _hex,
    "MLFLOW_FLASK_SERVER_SECRET_KEY": _hex,
    "POSTGRES_PASSWORD": _hex,
    "POSTGRES_MLFLOW_PASSWORD": _hex,
    "POSTGRES_MLFLOW_AUTH_PASSWORD": _hex,
    "POSTGRES_AIRFLOW_PASSWORD": _hex,
    "S3_ACCESS_KEY": lambda: secrets.token_hex(10),  # S3 servers accept 3 to 20 characters
    "S3_SECRET_KEY": lambda: secrets.token_hex(20),  # and 8 to 40
    "AIRFLOW_FERNET_KEY": _fernet,
    "AIRFLOW_JWT_SECRET": _hex,
    "AIRFLOW_SECRET_KEY": _hex,
    "AIRFLOW_ADMIN_PASSWORD": _hex,
    "REDIS_PASSWORD": _hex,
    "RAY_AUTH_TOKEN": _hex,
    "BACKUP_KEY": lambda: secrets.token_hex(32),
    "POSTGRES_MONITORING_PASSWORD": _hex,
    "GRAFANA_ADMIN_PASSWORD": _hex,
}
# Not written by `make setup`: `make up` makes them where the store can (deploy/store_keys.py).
STORE_KEYS: dict[str, Callable[[], str]] = {
    name: make
    for purpose in PURPOSES
    for name, make in (
        (purpose.access_key, lambda name=purpose.name: f"{name}-{secrets.token_hex(5)}"),  # at most 20 characters
        (purpose.secret_key, SECRETS["S3_SECRET_KEY"]),
    )
}


def complete(existing: str, example: str) -> tuple[str, list[str]]:
    """Return the text of `.env` with every variable of the example, and the names that were added or filled in.

    Args:
        existing: text of the present `.env`; empty when there is none.
        example: text of `.env.example`.
    """
    known = parse(existing)
    base = existing if known else example
    written: list[str] = []
    lines: list[str] = []
    for line in base.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name in SECRETS and not value:
            line = f"{name}={SECRETS[name]()}"
            written.append(name)
        lines.append(line)
    if known:
        for name, value in parse(example).items():
            if name not in known:
                lines.append(f"{name}={SECRETS[name]() if name in SECRETS and not value else value}")
                written.append(name)
    return "\n".join(lines) + "\n", written


def setup(folder: Path) -> None:
    """Write or complete `.env` in a folder that holds `.env.example`, and say what was written.

    Raises:
        DeployError: a line of the existing `.env` is not NAME=value; the file is left as it is.
    """
    write(folder / ".env", folder / ".env.example")


def write(env: Path, example: Path) -> None:
    """As `setup`, for files anywhere."""
    existing = env.read_text(encoding="utf-8") if env.exists() else ""
    try:
        text, written = complete(existing, example.read_text(encoding="utf-8"))
    except ValueError as error:
        fix = "correct the line, or move the file away and run `make setup` again"
        raise DeployError(f"{env}: {error}; {fix}", CONFIG) from None
    if written:
        with replacing(env) as file:
            file.write(text.encode())
        print(f"{env}: {'completed: ' + ', '.join(written) if existing else 'written, with fresh random secrets'}")
    env.chmod(0o600)
