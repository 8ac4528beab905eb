"""The images: one for each stage of the table in `tasks/contract`, and the servers.

The table is parsed, not imported, because `make images` runs where nothing but Python is installed.
Standard library only.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNNER = "tasks.__main__"
# Modules that an image starts by name, so that no import leads to them.
STARTED_BY_NAME = {
    "train": ("tasks.cli.export_onnx",),
    "tune": (
        "tasks.search.node",
        "tasks.cluster.decoding_worker",
        "tasks.distributed.worker",
        "tasks.prediction.worker",
        "tasks.serving.model_worker",
    ),
    "serving": ("tasks.serving.__main__", "tasks.serving.worker"),
}


@dataclass(frozen=True)
class Image:
    """One image and how it is built."""

    name: str
    dockerfile: str
    target: str | None = None
    extra: str | None = None  # whose packages it holds
    modules: tuple[str, ...] = ()  # it holds these and what they import

    @property
    def is_stage(self) -> bool:
        """Whether Airflow's tasks run it."""
        return self.target == "stage"

    @property
    def build_arguments(self) -> list[str]:
        """Arguments of `docker build`."""
        values = {"EXTRA": self.extra, "NAME": self.name, "MODULES": " ".join(self.modules)} if self.target else {}
        target = ["--target", self.target] if self.target else []
        return ["--file", self.dockerfile, *target, *(f"--build-arg={name}={value}" for name, value in values.items())]


def stages(root: Path = ROOT) -> dict[str, str]:
    """Extra of each stage, by the stage's name: the literals in the calls of `Stage` in `tasks/contract`.

    Raises:
        ValueError: a stage whose name or extra is not written as a plain string.
    """
    found: dict[str, str] = {}
    for file in sorted((root / "tasks" / "contract").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes(), file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Stage":
                given = dict(zip(("name", "request", "result", "extra"), node.args, strict=False))
                given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                name, extra = (getattr(given.get(field), "value", None) for field in ("name", "extra"))
                if not (isinstance(name, str) and isinstance(extra, str)):
                    raise ValueError(
                        f"{file.name}, line {node.lineno}: write name and extra of a Stage as plain strings"
                    )
                found[name] = extra
    return found


def images(root: Path = ROOT) -> dict[str, Image]:
    """Every image by name, in the order in which they are built."""
    of_stages = [
        Image(
            name, "images/Dockerfile", "stage", extra, (RUNNER, f"tasks.stages.{name}", *STARTED_BY_NAME.get(name, ()))
        )
        for name, extra in stages(root).items()
    ]
    known = (
        Image("mlflow", "images/mlflow/Dockerfile"),
        *of_stages,
        Image("serving", "images/Dockerfile", "service", "serving", STARTED_BY_NAME["serving"]),
        Image("airflow", "images/airflow/Dockerfile"),
    )
    return {image.name: image for image in known}


def setting(name: str, default: str = "") -> str:
    """Value of a variable, from the environment or, as Compose reads it, from `.env`."""
    if value := os.environ.get(name):
        return value
    file = ROOT / ".env"
    found = re.findall(rf"^{name}=(.*)$", file.read_text(encoding="utf-8"), re.M) if file.is_file() else []
    return found[-1] if found and found[-1] else default


def tagged(name: str) -> str:
    """Full name of an image: PIPELINE_IMAGE_PREFIX/NAME:PIPELINE_IMAGE_TAG, by default vision-mlops/NAME:dev."""
    return f"{setting('PIPELINE_IMAGE_PREFIX', 'vision-mlops')}/{name}:{setting('PIPELINE_IMAGE_TAG', 'dev')}"
