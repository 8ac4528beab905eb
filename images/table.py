"""Print a table of the images as Markdown: size, what they add to their base, start time, user, content.

    python -m images.table          (make image-table)

Everything is asked of the engine and of the images themselves. Start time: the shortest of three, from `docker run` to
the end of a program that imports what the image is for. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

BASE = os.environ.get("PYTHON_IMAGE") or "python:3.11-slim-bookworm"
PREFIX = os.environ.get("PIPELINE_IMAGE_PREFIX") or "vision-mlops"
TAG = os.environ.get("PIPELINE_IMAGE_TAG") or "dev"
# What each image is there to import; the packages are shown with their versions.
IMPORTS = {
    "mlflow": ("mlflow.server", ("mlflow", "boto3", "psycopg2-binary")),
    "airflow": ("airflow.sdk", ("apache-airflow", "apache-airflow-providers-docker", "apache-airflow-providers-fab")),
    "prepare": ("tasks.stages.prepare", ("mlflow-skinny", "torch", "torchvision")),
    "train": ("tasks.stages.train", ("mlflow-skinny", "torch", "torchvision")),
    "evaluate": ("tasks.stages.evaluate", ("mlflow-skinny", "torch", "torchvision")),
    "tune": ("tasks.stages.tune", ("ray", "optuna", "hyperopt")),
    "register": ("tasks.stages.register", ("mlflow-skinny",)),
    "rollback": ("tasks.stages.rollback", ("mlflow-skinny",)),
    "deploy": ("tasks.stages.deploy", ("mlflow-skinny",)),
    "serving": ("bentoml, torch", ("bentoml", "torch")),
}
TRIES = 3


def inspect(image: str) -> dict[str, Any]:
    """What the engine knows of an image; ends the program when it is not there."""
    shown = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True)  # noqa: S603, S607
    if shown.returncode != 0:
        sys.exit(f"{image} is not here; run make images")
    return dict(json.loads(shown.stdout)[0])


def python(image: str, code: str) -> tuple[str, float]:
    """Run Python in an image, without network or a disk to write to; what it printed, and the seconds it took."""
    command = ["docker", "run", "--rm", "--network", "none", "--tmpfs", "/tmp", "--entrypoint", "python"]  # noqa: S108
    began = time.perf_counter()
    done = subprocess.run([*command, image, "-c", code], capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        sys.exit(f"{image}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout.strip(), time.perf_counter() - began


def row(name: str, base: int) -> str:
    """One line of the table."""
    image, (module, packages) = f"{PREFIX}/{name}:{TAG}", IMPORTS[name]
    known = inspect(image)
    versions = (
        f"from importlib.metadata import version; print(', '.join(f'{{p}} {{version(p)}}' for p in {packages!r}))"
    )
    content, _ = python(image, versions)
    seconds = min(python(image, f"import {module}")[1] for _ in range(TRIES))
    size = known["Size"] / 1e6
    cells = [
        name,
        f"{size:.0f} MB",
        f"{size - base / 1e6:.0f} MB",
        f"{seconds:.1f} s",
        known["Config"]["User"],
        content,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    base = inspect(BASE)["Size"]
    print(f"| image | size | over `{BASE}` ({base / 1e6:.0f} MB) | start | user | holds |\n|---|---|---|---|---|---|")
    for name in IMPORTS:
        print(row(name, base), flush=True)


if __name__ == "__main__":
    main()
