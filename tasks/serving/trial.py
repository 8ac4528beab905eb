"""Loads a model as the service does, in a process of its own: does it work, and what memory does it take?

python -m tasks.serving.trial FOLDER      prints one line of JSON, the fields of `Trial`
"""

from __future__ import annotations

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

SECONDS = 300
MEGABYTE = 1e6


@dataclass(frozen=True)
class Trial:
    """What came of it; `memory_mb` is the peak over what the process needed before it had the model."""

    works: bool
    note: str
    memory_mb: float | None = None


@contextmanager
def attempt(folder: Path) -> Iterator[Callable[[], Trial]]:
    """Try the model in `folder` in a new process, which may die of it; what is given waits for what comes of it.

    Most of the process's time goes into imports, so there is something else to do meanwhile.
    """
    command = [sys.executable, "-m", "tasks.serving.trial", str(folder)]
    # One thread: its own memory and the model's, not that of as many arenas as the machine has cores.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=environment) as process:  # noqa: S603
        try:
            yield lambda: _result(process)
        finally:
            process.kill()


def _result(process: subprocess.Popen[str]) -> Trial:
    try:
        out, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Trial(False, f"it does not load and answer within {SECONDS} s")
    try:
        return Trial(**json.loads(out.strip().splitlines()[-1]))
    except (IndexError, TypeError, json.JSONDecodeError):
        last = (errors.strip().splitlines() or ["no word"])[-1]
        return Trial(False, f"the process that tried it ended with {process.returncode} ({last[:200]})")


def load_and_answer(folder: Path) -> Trial:
    """Load the model in `folder` with the service's loader, in this process, and hold it to its signature."""
    import mlflow.pytorch  # noqa: F401  # before the memory is counted
    import numpy as np
    import torch
    from mlflow.models import Model

    from tasks.serving.model import CHUNK, load
    from tasks.serving.model_reference import Target

    before = _peak(reset=True)
    try:
        model = load(Target(str(folder), None, None, None))
        answers = model.predict(np.random.default_rng(0).integers(0, 256, (CHUNK, *model.shape), np.uint8))
    except PipelineError as error:
        return Trial(False, str(error))
    except Exception as error:
        return Trial(False, f"it does not load and answer: {type(error).__name__}: {error}"[:300])
    memory = max(0, _peak() - before) / MEGABYTE
    signature = Model.load(str(folder)).signature
    if signature is None or signature.inputs is None or signature.outputs is None:
        return Trial(False, "the model has no signature; log it as train does", memory)
    declared = [(spec.type, spec.shape[1:]) for spec in (signature.inputs.inputs[0], signature.outputs.inputs[0])]
    actual = [(np.dtype(np.uint8), model.shape), (answers.dtype, answers.shape[1:])]
    if declared != actual:
        return Trial(False, f"its signature says {declared}, it takes and answers {actual}", memory)
    versions = f"torch {torch.__version__}, mlflow {importlib.metadata.version('mlflow-skinny')}"
    return Trial(True, f"the service's loader takes it, and it keeps to its signature ({versions})", memory)


def _peak(*, reset: bool = False) -> int:
    """Peak resident memory of this process in bytes; `reset` makes what is resident now the peak, where Linux lets."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if reset and clear.exists():
        clear.write_text("5")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, whose peak cannot be reset


def main() -> None:
    """Print what came of the folder named on the command line."""
    print(json.dumps(asdict(load_and_answer(Path(sys.argv[1])))))


if __name__ == "__main__":
    main()
