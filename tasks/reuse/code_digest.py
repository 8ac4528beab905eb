"""The digest of a stage's code: of the sources it can import from this package, and of the packages these import.

Read from the sources, nothing is imported: the digest of a stage that needs torch costs no import of torch, and is the
same in an image, which holds the sources of one stage, and in a checkout, which holds them all.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "tasks"
# Packages whose distribution has another name than the import.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "google": "protobuf",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
ABSENT = "absent"
FILE_NAME = re.compile(r"[\w-]{1,100}(\.[\w-]{1,20}){1,3}")


def of_stage(stage: str, package: Path = Path(__file__).parents[1]) -> str:
    """SHA-256 over the sources of `tasks.stages.STAGE` and of all that they import, and the versions of packages.

    Raises:
        ModuleNotFoundError: `package` has no such stage.
    """
    files, packages = closure(f"{PACKAGE}.stages.{stage}", package)
    whole = hashlib.sha256(f"python {platform.python_version()}\n".encode())
    for name in sorted(packages):
        whole.update(f"{name} {version(name)}\n".encode())
    for path in sorted(files):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(package).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()


def closure(module: str, package: Path, without: tuple[str, ...] = ()) -> tuple[set[Path], set[str]]:
    """Follow the imports of `module` through `package`, those inside functions too.

    Args:
        module: where to begin, by its full name.
        package: folder of the package.
        without: subpackages that are not followed.

    Returns:
        The files of the package that it reaches, with the files beside a module that the module names in a string (a
        template); and the names of the third-party packages imported on the way.

    Raises:
        ModuleNotFoundError: `package` does not hold `module`.
    """
    if _file(module, package) is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    files: set[Path] = set()
    others: set[str] = set()
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:  # most are: to look for their files again would take a third of the time
            continue
        seen.add(name)
        path = _file(name, package)
        if path is None or any(f"{name}.".startswith(f"{part}.") for part in without):
            continue
        files.add(path)
        waiting.append(name.rpartition(".")[0])
        imports, file_names = _mentioned(path.read_bytes())
        for imported in imports:
            top = imported.partition(".")[0]
            if top == PACKAGE:
                waiting.append(imported)
            elif top not in sys.stdlib_module_names:
                others.add(top)
        files |= {beside for beside in map(path.with_name, file_names) if beside.is_file()}
    return files, others


@functools.cache  # parsing takes most of the time, and a process may ask for several stages and copies of the package
def _mentioned(source: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """What a module imports, and the strings in it that could name a file."""
    nodes = list(ast.walk(ast.parse(source)))
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return (
        frozenset(imported for node in nodes for imported in _imported(node)),
        frozenset(filter(FILE_NAME.fullmatch, strings)),
    )


@functools.cache  # what is installed stays the same while a process runs
def version(package: str) -> str:
    """Version of what is imported as `package`, with its build (`+cpu`); `absent` where it is not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def _file(module: str, package: Path) -> Path | None:
    """Source of a module of the package; None for what is not one: an attribute, or the empty name above it."""
    if not module:
        return None
    path = package.joinpath(*module.split(".")[1:])
    return next((file for file in (path / "__init__.py", path.with_name(f"{path.name}.py")) if file.is_file()), None)


def _imported(node: ast.AST) -> Iterator[str]:
    """What a node imports; of `from a import b` both `a` and `a.b`, which may be a module too."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        if node.level:
            raise ImportError(f"a relative import of {node.module!r} in {PACKAGE}; write it in full")
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
