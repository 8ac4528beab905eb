"""A second stack beside the present one, from the same `.env`, that is used once and removed. Standard library only."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy import engine, store_policies
from deploy.backup_stack import BackupError, last_line
from deploy.errors import USAGE


def different(values: Mapping[str, str], purpose: str) -> dict[str, str]:
    """Return what is different in the `.env` of the second stack, whose name ends with its purpose."""
    name = f"{engine.stack_name(values)}-{purpose}"
    ports = dict.fromkeys(("MLFLOW_PORT", "S3_PORT", "SERVING_PORT"), "0")  # the engine chooses
    # Its store has one user, the root.
    own_store = dict.fromkeys(("S3_ENDPOINT_URL", "S3_REGION", *store_policies.VARIABLES), "")
    plain = dict.fromkeys(("COMPOSE_PROFILES", "SERVING_MODEL"), "")
    return {"STACK_NAME": name, "PIPELINE_DOCKER_NETWORK": name, **ports, **own_store, **plain}


@contextmanager
def prepared(values: Mapping[str, str], purpose: str) -> Iterator[Path]:
    """Yield the `.env` of a second stack of which nothing is there yet; remove all of it afterwards.

    What was left by one of the same purpose that was killed is removed first.

    Raises:
        BackupError: the environment would let Compose mistake the first stack for it.
    """
    own = different(values, purpose)
    hidden = sorted({*own, "COMPOSE_PROJECT_NAME", "COMPOSE_FILE"} & set(os.environ))
    if hidden:  # Compose prefers them, and would remove the first stack
        raise BackupError(f"the environment sets {', '.join(hidden)}, which overrides .env; unset it", USAGE)
    with tempfile.TemporaryDirectory() as folder:
        second = Path(folder) / ".env"
        second.touch(mode=0o600)
        lines = [f"{name}={value}\n" for name, value in (dict(values) | own).items()]
        second.write_text("".join(lines), encoding="utf-8")
        _remove(second)
        try:
            yield second
        finally:
            _remove(second)


def run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it printed.

    Raises:
        BackupError: it failed; the text is the last line it wrote.
    """
    done = subprocess.run(  # noqa: S603  # docker, with arguments of ours
        command, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, **(environment or {})}
    )
    if done.returncode != 0:
        raise BackupError(f"second stack: {last_line(done.stderr) or ' '.join(command[:3]) + ' failed'}")
    return done.stdout.decode().strip()


def _remove(second: Path) -> None:
    for file in (engine.WORK, engine.STATE):
        run(engine.compose(file, "down", "--volumes", "--remove-orphans", "--timeout", "5", env_file=second))
