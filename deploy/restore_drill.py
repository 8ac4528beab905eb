"""The restore drill: starts an empty stack beside the present one, restores a backup into it, and asks its service.

The second stack has the name of the first with `-drill` appended: its own network, volumes, S3 store and ports. It is
removed at the end, and so is what a drill left that was killed. Nothing of the first stack is read but `.env` and the
backup. Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy import backup, backup_encryption, engine, nightly_backup
from deploy.backup_stack import BackupError, ComposeStack, last_line
from deploy.env_file import read
from deploy.errors import USAGE

CHECK = Path(__file__).resolve().with_name("drill_check.py")
SECONDS = 600  # for the service to load the champion
MODEL = "vision-classifier"  # the default of SERVING_REGISTERED_MODEL
METRICS = nightly_backup.METRICS.with_name("backup_drill.prom")


def of_drill(values: Mapping[str, str]) -> dict[str, str]:
    """Return what is different in the `.env` of the second stack."""
    name = f"{engine.stack_name(values)}-drill"
    ports = dict.fromkeys(("MLFLOW_PORT", "S3_PORT", "SERVING_PORT"), "0")  # the engine chooses
    own_store = dict.fromkeys(("S3_ENDPOINT_URL", "S3_REGION"), "")
    plain = dict.fromkeys(("COMPOSE_PROFILES", "SERVING_MODEL"), "")
    return {"STACK_NAME": name, "PIPELINE_DOCKER_NETWORK": name, **ports, **own_store, **plain}


def run(env_file: Path, file: Path, metrics: Path, *, seconds: float = SECONDS) -> list[str]:
    """Restore the file into an empty stack and compare its champion's answers; return lines that say what was seen.

    Raises:
        BackupError: a step failed, or an answer differs; the second stack is removed all the same.
    """
    values = read(env_file)
    keys = backup_encryption.keys(values)
    backup.authenticated(file, keys)  # before a stack is started for it
    began = time.monotonic()
    with _second_stack(values) as (stack, second):
        restored = backup.restore(stack, file, keys, force=False)
        _run(engine.compose(engine.WORK, "up", "--detach", "--no-deps", "serving", env_file=second))
        answers = _answers(values | of_drill(values), seconds)
    took = time.monotonic() - began
    nightly_backup.write_metrics(metrics, {"backup_drill_last_success_timestamp_seconds": time.time()})
    return [restored, answers, f"the drill took {took:.0f} s"]


@contextmanager
def _second_stack(values: Mapping[str, str]) -> Iterator[tuple[ComposeStack, Path]]:
    """Start the second stack; yield it and its `.env`. Remove it afterwards."""
    own = of_drill(values)
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
            _run(engine.compose(engine.STATE, "up", "--detach", "--wait", env_file=second))
            yield ComposeStack(second), second
        finally:
            _remove(second)


def _remove(second: Path) -> None:
    for file in (engine.WORK, engine.STATE):
        _run(engine.compose(file, "down", "--volumes", "--remove-orphans", "--timeout", "5", env_file=second))


def _answers(values: Mapping[str, str], seconds: float) -> str:
    image = (
        f"{values.get('PIPELINE_IMAGE_PREFIX') or 'vision-mlops'}/deploy:{values.get('PIPELINE_IMAGE_TAG') or 'dev'}"
    )
    given = {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_USERNAME": "pipeline-serving",  # it only reads
        "MLFLOW_TRACKING_PASSWORD": values["MLFLOW_SERVING_PASSWORD"],
        "SERVING_URL": "http://serving:3000",
        "SERVING_API_KEY": values.get("SERVING_API_KEY", ""),
    }
    options = ["--rm", "--network", values["PIPELINE_DOCKER_NETWORK"], "--entrypoint", "python"]
    options += [word for name in given for word in ("--env", name)]  # values: from the environment of the command
    model = values.get("SERVING_REGISTERED_MODEL") or MODEL
    arguments = ["-c", CHECK.read_text(encoding="utf-8"), model, f"{seconds:.0f}"]
    return _run(["docker", "run", *options, image, *arguments], given)


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(  # noqa: S603  # docker, with arguments of ours
        command, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, **(environment or {})}
    )
    if done.returncode != 0:
        raise BackupError(f"drill: {last_line(done.stderr) or ' '.join(command[:3]) + ' failed'}")
    return done.stdout.decode().strip()
