"""Copies the code that modules import, and nothing else: `python copy_code.py TARGET MODULE...`.

Runs while an image is built, from a folder that contains `tasks`; standard library only. An image keeps its layer as
long as the code that it imports is unchanged.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tasks.reuse.code_digest import closure

# What the runner imports only on demand: commands for people, and what images/declared.py adds to some images.
ON_REQUEST = ("tasks.cli", "tasks.search")


def copy_code(package: Path, target: Path, modules: list[str]) -> None:
    """Copy the sources in `package` that `modules` import to `target`, a folder that then holds the package.

    Raises:
        ModuleNotFoundError: the package has no such module.
    """
    files: set[Path] = set()
    for module in modules:
        files |= closure(module, package, ON_REQUEST if module == "tasks.__main__" else ())[0]
    for file in sorted(files):
        copy = target / file.relative_to(package.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


if __name__ == "__main__":
    copy_code(Path("tasks").resolve(), Path(sys.argv[1]), sys.argv[2:])
