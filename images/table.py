"""Print a table of the images as Markdown: size, what they add to their base, start time, user, content.

    python3 -m images table         (make image-table)

All values come from the engine and from the images themselves. Start time: the shortest of three, from `docker run` to
the exit of a program that imports the image's main module. Standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from images.declared import Image, images, setting, tagged

# Packages to show with their versions, by image or by the extra of a stage's image.
PACKAGES = {
    "mlflow": ("mlflow", "boto3", "psycopg2-binary"),
    "airflow": ("apache-airflow", "apache-airflow-providers-docker", "apache-airflow-providers-fab"),
    "client": ("mlflow-skinny",),
    "vision": ("mlflow-skinny", "torch", "torchvision"),
    "inference": ("mlflow-skinny", "onnxruntime", "pyarrow", "ray"),
    "tune": ("ray", "optuna", "hyperopt"),
    "serving": ("bentoml", "onnxruntime"),
}
# Main modules of the servers' images.
IMPORTS = {"mlflow": "mlflow.server", "airflow": "airflow.sdk", "serving": "bentoml, onnxruntime"}
TRIES = 3


def inspect(image: str) -> dict[str, Any]:
    """The engine's record of an image; exits when there is none."""
    shown = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True)  # noqa: S603, S607
    if shown.returncode != 0:
        sys.exit(f"{image} does not exist on this engine; run make images")
    return dict(json.loads(shown.stdout)[0])


def python(image: str, code: str) -> tuple[str, float]:
    """Run Python in an image, without network or writable disk; return its output and its duration in seconds."""
    command = ["docker", "run", "--rm", "--network", "none", "--tmpfs", "/tmp", "--entrypoint", "python"]  # noqa: S108
    began = time.perf_counter()
    done = subprocess.run([*command, image, "-c", code], capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        sys.exit(f"{image}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout.strip(), time.perf_counter() - began


def row(shown: Image, base: int) -> str:
    """One line of the table."""
    image, packages = tagged(shown.name), PACKAGES[shown.extra or shown.name]
    module = f"tasks.stages.{shown.name}" if shown.is_stage else IMPORTS[shown.name]
    known = inspect(image)
    versions = (
        f"from importlib.metadata import version; print(', '.join(f'{{p}} {{version(p)}}' for p in {packages!r}))"
    )
    content, _ = python(image, versions)
    seconds = min(python(image, f"import {module}")[1] for _ in range(TRIES))
    size = known["Size"] / 1e6
    cells = [
        shown.name,
        f"{size:.0f} MB",
        f"{size - base / 1e6:.0f} MB",
        f"{seconds:.1f} s",
        known["Config"]["User"],
        content,
    ]
    return f"| {' | '.join(cells)} |"


def print_table() -> None:
    """Print the table."""
    base_image = setting("PYTHON_IMAGE", "python:3.11-slim-bookworm")
    base = inspect(base_image)["Size"]
    print(f"| image | size | over `{base_image}` ({base / 1e6:.0f} MB) | start | user | holds |")
    print("|---|---|---|---|---|---|")
    for shown in images().values():
        print(row(shown, base), flush=True)
