"""`deploy/env.sh`, sourced by the Makefile, in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

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
