"""The process of a trial; test_resume has the trials themselves, and the tune stage's tests run them on a real Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SLOW = ("mlflow", "optuna", "hyperopt", "scipy", "sklearn", "boto3", "matplotlib")


def test_a_trials_process_imports_nothing_that_only_the_search_needs() -> None:
    code = f"import sys, tasks.search.trial; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
