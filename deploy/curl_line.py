"""Print a curl command that asks the service about a test image; needs the environment of deploy/env.sh."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def line(file: Path, environment: Mapping[str, str]) -> str:
    """Return the command for an image file; the reader's shell fills in the key."""
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    key = '-H "Authorization: Bearer $SERVING_API_KEY" ' if environment.get("SERVING_API_KEY") else ""
    return f"curl {key}-F image=@{file} {environment.get('SERVING_URL') or 'http://127.0.0.1:3000'}/predict_image"


def show(dag_id: str) -> int:
    """Write a test image of a DAG's newest evaluation to a file and print the command; an exit code of tasks/errors.py.

    Needs the packages of .venv: the image comes from MLflow.
    """
    from tasks.cli.sample import sample
    from tasks.errors import exit_code_of
    from tasks.settings import load_settings

    file = Path(os.environ["PIPELINE_HOME"]) / "sample.png"
    code = exit_code_of(lambda: file.write_bytes(sample(dag_id, load_settings())))
    if code == 0:
        print(f"\nThe champion answers. Try it:\n\n  {line(file, os.environ)}\n")
    return code
