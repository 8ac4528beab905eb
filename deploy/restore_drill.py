"""The restore drill: starts an empty stack beside the present one, restores a backup into it, and asks its service.

The second stack has the name of the first with `-drill` appended: its own network, volumes, S3 store and ports. It is
removed at the end, and so is what a drill left that was killed. Nothing of the first stack is read but `.env` and the
backup. Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from deploy import backup, backup_encryption, engine, nightly_backup, second_stack
from deploy.backup_stack import ComposeStack
from deploy.env_file import read

CHECK = Path(__file__).resolve().with_name("drill_check.py")
SECONDS = 600  # for the service to load the champion
MODEL = "vision-classifier"  # the default of SERVING_REGISTERED_MODEL
METRICS = nightly_backup.METRICS.with_name("backup_drill.prom")


def run(env_file: Path, file: Path, metrics: Path, *, seconds: float = SECONDS) -> list[str]:
    """Restore the file into an empty stack and compare its champion's answers; return lines that say what was seen.

    Raises:
        BackupError: a step failed, or an answer differs; the second stack is removed all the same.
    """
    values = read(env_file)
    keys = backup_encryption.keys(values)
    backup.authenticated(file, keys)  # before a stack is started for it
    began = time.monotonic()
    with second_stack.prepared(values, "drill") as second:
        second_stack.run(engine.compose(engine.STATE, "up", "--detach", "--wait", env_file=second))
        restored = backup.restore(ComposeStack(second), file, keys, force=False)
        second_stack.run(engine.compose(engine.WORK, "up", "--detach", "--no-deps", "serving", env_file=second))
        answers = _answers(read(second), seconds)
    took = time.monotonic() - began
    nightly_backup.write_metrics(metrics, {"backup_drill_last_success_timestamp_seconds": time.time()})
    return [restored, answers, f"the drill took {took:.0f} s"]


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
    return second_stack.run(["docker", "run", *options, image, *arguments], given)
