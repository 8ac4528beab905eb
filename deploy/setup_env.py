"""Write `.env`: every variable of `.env.example`, each empty secret replaced by a random one.

    python deploy/setup_env.py [FOLDER]

An `.env` that exists keeps its values; variables that are new, and secrets that are empty, are added to it.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def _hex() -> str:
    """192 random bits that need no quoting in a URL, a shell or an INI file."""
    return secrets.token_hex(24)


def _fernet() -> str:
    """32 random bytes in the encoding that cryptography's Fernet asks for."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


SECRETS: dict[str, Callable[[], str]] = {
    "MLFLOW_TRACKING_PASSWORD": _hex,
    "MLFLOW_FLASK_SERVER_SECRET_KEY": _hex,
    "POSTGRES_PASSWORD": _hex,
    "POSTGRES_MLFLOW_PASSWORD": _hex,
    "POSTGRES_MLFLOW_AUTH_PASSWORD": _hex,
    "POSTGRES_AIRFLOW_PASSWORD": _hex,
    "S3_ACCESS_KEY": lambda: secrets.token_hex(10),  # S3 servers take 3 to 20 characters
    "S3_SECRET_KEY": lambda: secrets.token_hex(20),  # and 8 to 40
    "AIRFLOW_FERNET_KEY": _fernet,
    "AIRFLOW_JWT_SECRET": _hex,
    "AIRFLOW_SECRET_KEY": _hex,
    "AIRFLOW_ADMIN_PASSWORD": _hex,
    "REDIS_PASSWORD": _hex,
    "RAY_AUTH_TOKEN": _hex,
    "POSTGRES_MONITORING_PASSWORD": _hex,
    "GRAFANA_ADMIN_PASSWORD": _hex,
}


def parse(text: str) -> dict[str, str]:
    """Read `NAME=value` lines; comments and empty lines are passed over.

    Raises:
        ValueError: a line is none of these; names its number, not its content, which may be secret.
    """
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"line {number} is not NAME=value")
        variables[name] = value
    return variables


def seen_by_compose(env_file: Path) -> dict[str, str]:
    """Variables as compose has them: those of the environment go before those of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `parse`.
    """
    return parse(env_file.read_text(encoding="utf-8")) | os.environ


def complete(existing: str, example: str) -> tuple[str, list[str]]:
    """Return the text of `.env` with every variable of the example, and the names that were added or filled.

    Args:
        existing: text of the `.env` there is; empty when there is none.
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


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".env.")  # mkstemp's files have mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def main(arguments: list[str]) -> int:
    """Write or complete `.env` in the folder given, the repository by default."""
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    env = folder / ".env"
    existing = env.read_text(encoding="utf-8") if env.exists() else ""
    try:
        text, written = complete(existing, (folder / ".env.example").read_text(encoding="utf-8"))
    except ValueError as error:
        print(f"{env}: {error}; correct the line, or move the file away and run `make setup` again", file=sys.stderr)
        return 78
    if written:
        write_private(env, text)
        print(f"{env}: {'completed: ' + ', '.join(written) if existing else 'written, with fresh random secrets'}")
    env.chmod(0o600)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
