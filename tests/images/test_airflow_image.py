"""What Airflow's image holds of the package `tasks`: neither more nor less than DAGs and plugins import."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported(file: Path) -> set[Path]:
    """Files of `tasks` that a file imports, packages' own included."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            path = ROOT / name.replace(".", "/")
            for candidate in (path.with_suffix(".py"), *(parent / "__init__.py" for parent in (path, *path.parents))):
                if candidate.is_file() and candidate.is_relative_to(ROOT / "tasks"):
                    found.add(candidate)
    return found


def closure(files: set[Path]) -> set[Path]:
    """All files of `tasks` that these files need."""
    known: set[Path] = set()
    while files:
        known |= files
        files = set().union(*(imported(file) for file in files)) - known
    return {file for file in known if file.is_relative_to(ROOT / "tasks")}


def test_the_image_has_every_module_that_dags_and_plugins_import() -> None:
    needed = closure({*ROOT.glob("dags/*.py"), *ROOT.glob("plugins/**/*.py")})
    dockerfile = (ROOT / "images" / "airflow" / "Dockerfile").read_text().replace("\\\n", "")
    copied = re.findall(r"^COPY (tasks/.*) tasks/\S*$", dockerfile, re.M)
    named = {ROOT / name for line in copied for name in line.split()}
    there = {file for path in named for file in (path.rglob("*.py") if path.is_dir() else [path])}
    assert there == needed
