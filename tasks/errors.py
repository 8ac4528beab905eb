"""Every failure a stage can report, and the exit code it leaves the process with.

    PipelineError                        code  retried by Airflow
    ├── PermanentError                     -   no: the same input fails the same way
    │   ├── RequestError                  64   the stage request is wrong (unknown model, malformed JSON)
    │   ├── DataError                     65   the images are wrong (empty, one class, damaged archive)
    │   │   └── ChangedError              65   what an earlier stage logged is not what the store returns
    │   ├── ResultError                   70   a stage left no result, or one that does not fit its model
    │   ├── ModelError                    76   the model is wrong (no champion, other classes, answers differ)
    │   └── SettingsError                 78   the environment is wrong (missing secret, bad URL)
    └── UnavailableError                  69   yes: MLflow, the object store or the service cannot be reached
        └── StoreFullError                69   the object store has no room

Codes follow BSD ``sysexits.h``. Anything else (a bug, a kill) is retried; out of memory too, but for the
stages that say otherwise (`Stage.retried_out_of_memory`).
A message is one line: the value that is wrong, then what to do about it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ClassVar

INTERRUPTED = 130  # by Ctrl-C, as shells report it


class PipelineError(Exception):
    """A failure with a known cause; its text is one line that names the value and the fix."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """Return the message folded to one line, so that a log shows it whole."""
        return " ".join(super().__str__().split())


class PermanentError(PipelineError):
    """A retry cannot help."""


class RequestError(PermanentError):
    """The stage request does not fit its model."""

    exit_code = 64


class DataError(PermanentError):
    """The source holds nothing a classifier can be trained on."""

    exit_code = 65


class ChangedError(DataError):
    """Someone changed what an earlier stage or the ledger had logged."""


class ResultError(PermanentError):
    """A stage ended without a result, or with one of another shape."""

    exit_code = 70


class ModelError(PermanentError):
    """A model, a version or an alias is not what the stage needs."""

    exit_code = 76


class SettingsError(PermanentError):
    """An environment variable is missing or has a value that cannot be used."""

    exit_code = 78


class UnavailableError(PipelineError):
    """A server cannot be reached or is slow; the same request may work later."""

    exit_code = 69


class StoreFullError(UnavailableError):
    """The object store answers, and has no room; somebody must make some before the same request works."""


def is_permanent(exit_code: int) -> bool:
    """Tell whether a stage process that ended with `exit_code` would fail the same way again."""
    return exit_code in {cls.exit_code for cls in PermanentError.__subclasses__()}


def exit_code_of(work: Callable[[], object]) -> int:
    """Run a command and return its exit code: 0, or that of a known failure or of Ctrl-C.

    A known failure is printed as one line on standard error. Other exceptions propagate.
    """
    try:
        work()
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
