"""Loads a model as the service would, in a process of its own: does it work, and how much memory does it take?

python -m tasks.serving.load_check FOLDER      prints one line of JSON, the fields of `LoadCheck`
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE

from tasks.errors import PipelineError

TIMEOUT = 300  # seconds
MEGABYTE = 1e6


@dataclass(frozen=True)
class LoadCheck:
    """The result; `memory_mb` is the peak beyond what the process needed before it loaded the model."""

    works: bool
    note: str
    memory_mb: float | None = None


@contextmanager
def load_check(folder: Path) -> Iterator[Callable[[], LoadCheck]]:
    """Start to load the model in `folder` in a new process; yields a function that waits for the result.

    The process may crash, and spends most of its time on imports; so the caller can work meanwhile.
    """
    command = [sys.executable, "-m", "tasks.serving.load_check", str(folder)]
    # One thread, so that the memory measured is the model's, not that of an arena per core.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=environment) as process:  # noqa: S603
        try:
            yield lambda: _result(process)
        finally:
            process.kill()


def _result(process: subprocess.Popen[str]) -> LoadCheck:
    try:
        out, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return LoadCheck(False, f"it does not load and answer within {TIMEOUT} s")
    try:
        return LoadCheck(**json.loads(out.strip().splitlines()[-1]))
    except (IndexError, TypeError, json.JSONDecodeError):
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return LoadCheck(False, f"the process that loaded it ended with {process.returncode} ({last[:200]})")


def load_and_answer(folder: Path) -> LoadCheck:
    """Load the model in `folder` with the service's loader, in this process, and compare it with its signature."""
    import numpy as np
    from mlflow.models import Model

    from tasks.serving.model import CHUNK, open_prepared
    from tasks.serving.model_reference import Target
    from tasks.serving.preparation import prepared_model
    from tasks.serving.runtimes import PACKAGES, runtime_of

    try:
        description = Model.load(str(folder))
        runtime = runtime_of(description)
        for package in PACKAGES[runtime]:
            importlib.import_module(package)  # before the memory is measured
        before = _peak(reset=True)
        with prepared_model(Target(str(folder), None, None, None)) as prepared:
            model = open_prepared(prepared)
        answers = model.predict(np.random.default_rng(0).integers(0, 256, (CHUNK, *model.shape), np.uint8))
    except PipelineError as error:
        return LoadCheck(False, str(error))
    except Exception as error:
        return LoadCheck(False, f"it does not load and answer: {type(error).__name__}: {error}"[:300])
    memory = max(0, _peak() - before) / MEGABYTE
    signature = description.signature
    if signature is None or signature.inputs is None or signature.outputs is None:
        return LoadCheck(False, "the model has no signature; log it as train does", memory)
    declared = [(spec.type, spec.shape[1:]) for spec in (signature.inputs.inputs[0], signature.outputs.inputs[0])]
    actual = [(np.dtype(np.uint8), model.shape), (answers.dtype, answers.shape[1:])]
    if declared != actual:
        return LoadCheck(False, f"its signature says {declared}, it takes and answers {actual}", memory)
    package = PACKAGES[runtime][0]
    version = f"{package} {importlib.metadata.version(package)}"
    return LoadCheck(True, f"the service's loader accepts it, and it matches its signature ({version})", memory)


def _peak(*, reset: bool = False) -> int:
    """Return the peak resident memory of this process in bytes; `reset` starts a new peak, where Linux allows it."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if reset and clear.exists():
        clear.write_text("5")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, whose peak cannot be reset


def main() -> None:
    """Print the result for the folder named on the command line."""
    print(json.dumps(asdict(load_and_answer(Path(sys.argv[1])))))


if __name__ == "__main__":
    main()
