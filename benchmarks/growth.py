"""Measures what a daily run costs on disk: `python -m benchmarks.growth --runs 3`, on this machine without Docker.

Runs `daily_training` on the digits data set in a new folder, once to begin with, then RUNS times with every stage
forced and another seed each time, then RUNS times with nothing new. Compares the sizes before and after: MLflow's
database, Airflow's, and the files that would be in the bucket, by kind. The databases are SQLite here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tasks.text_table import columns

FOLDERS = {"gold": "gold", "checkpoints": "checkpoints", "models": "models"}  # of artifacts, by kind
KINDS = (*FOLDERS, "other artifacts", "MLflow's database", "Airflow's database", "output of tasks")


def sizes(home: Path, output: int) -> Counter[str]:
    """Bytes by kind."""
    found = Counter(dict.fromkeys(KINDS, 0))
    for path in (home / "artifacts").rglob("*"):
        if path.is_file():
            parts = path.relative_to(home / "artifacts").parts
            kind = next((kind for kind, folder in FOLDERS.items() if folder in parts), "other artifacts")
            found[kind] += path.stat().st_size
    found["MLflow's database"] = (home / "mlflow.db").stat().st_size
    found["Airflow's database"] = (home / "airflow" / "airflow.db").stat().st_size
    found["output of tasks"] = output
    return found


def program(home: Path, *arguments: str) -> int:
    """Run a program on the installation in a folder; return the bytes of its output."""
    own = {"PIPELINE_HOME": str(home), "AIRFLOW_HOME": str(home / "airflow")}
    environment = os.environ | own | {"MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
    done = subprocess.run(arguments, env=environment, capture_output=True)  # noqa: S603  # ours
    if done.returncode != 0:
        sys.exit((done.stdout + done.stderr).decode()[-3000:])
    return len(done.stdout)


def measure(home: Path, confs: list[dict[str, object]]) -> Counter[str]:
    """Run the DAG with each of these Params; return the bytes that a run added, on average."""
    before = sizes(home, 0)
    command = (sys.executable, "-m", "pipeline", "run", "--anew", "daily_training")
    output = sum(program(home, *command, json.dumps(conf)) for conf in confs)
    after = sizes(home, output)
    return Counter({kind: round((after[kind] - before[kind]) / len(confs)) for kind in KINDS})


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--conf", type=json.loads, default={}, help="Params of the runs, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        home = Path(folder)
        conf = {"dataset": "digits", "epochs": 3, **given.conf}
        try:
            program(home, "airflow", "db", "migrate")
            program(home, "airflow", "dags", "reserialize")
            program(home, sys.executable, "-m", "pipeline", "run", "daily_training", json.dumps(conf))
            new = measure(home, [{**conf, "seed": seed, "force": ["all"]} for seed in range(1, given.runs + 1)])
            same = measure(home, [conf] * given.runs)
        finally:
            program(home, sys.executable, "-m", "tasks", "serve", "--stop")
    rows = [(kind, f"{new[kind] / 1e6:.3f}", f"{same[kind] / 1e6:.3f}") for kind in KINDS]
    total = ("together", *(f"{sum(part.values()) / 1e6:.3f}" for part in (new, same)))
    print(columns([("MB a run", "everything new", "nothing new"), *rows, total]))


if __name__ == "__main__":
    main()
