"""Seconds per stage under each runtime, split into Airflow, start and work: `make bench-runtimes`.

    python -m benchmarks.runtimes [--runtimes local docker kubernetes] [--rounds 3] [--write FILE]

Each round runs `daily_training` on digits once under each runtime, one after the other, with nothing reused
(`force=["all"]`). A stage's *work* is the time that it reports itself. Its *start* is the rest of the time between its
request and its result: process or container, Python, imports, reading the result, removal. *Airflow* is the time
between one stage's result and the next one's request, and before the first and after the last stage. The Docker stack
and the cluster must be up: `make up S=serving`, `make kubernetes-up`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.machine import cpu_model

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("prepare", "train", "evaluate", "register", "deploy")
PARTS = ("airflow", "start", "work")
RUNTIMES = ("local", "docker", "kubernetes")
CONF = {
    "dataset": "digits",
    "epochs": 10,
    "force": ["all"],
    "resources": {name: {"memory": "3g"} for name in ("prepare", "train", "evaluate")},
}
# Free even if a stack uses the default ports.
PORTS = {
    "local": {"SERVING_URL": "http://127.0.0.1:3020"},
    "docker": {},
    "kubernetes": {"MLFLOW_PORT": "5010", "SERVING_PORT": "3010"},
}
BEGUN = re.compile(r"^(?P<at>\S+Z) .*\] +(?P<stage>\w+): request ", re.MULTILINE)
DONE = re.compile(r"^(?P<at>\S+Z) .*\] +(?P<stage>\w+): done in (?P<seconds>[0-9.]+) s", re.MULTILINE)


@dataclass(frozen=True)
class Split:
    """Where the seconds of a stage's task went."""

    airflow: float
    start: float
    work: float

    @property
    def all(self) -> float:
        """Of the whole task, including the time before its request."""
        return self.airflow + self.start + self.work


def run(runtime: str) -> dict[str, Split]:
    """Run the DAG once; return seconds per stage, and the time after the last stage under the name `end`.

    Raises:
        RuntimeError: the run failed, or its log is not as expected.
    """
    forward = "python -m deploy forward -- " if runtime == "kubernetes" else ""
    script = f'. deploy/env.sh {runtime} && {forward}python -m pipeline run --anew daily_training "$CONF"'
    environment = {**os.environ, **PORTS[runtime], "CONF": json.dumps(CONF)}
    began = time.time()
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603  # ours
    ended = time.time()
    if done.returncode != 0:
        raise RuntimeError(f"the run under {runtime} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return split(done.stdout + done.stderr, began, ended)


def split(log: str, began: float, ended: float) -> dict[str, Split]:
    """Read a run's log; times are seconds since 1970.

    Raises:
        RuntimeError: the log has no request or no result of a stage.
    """
    begun = {found["stage"]: seconds_of(found["at"]) for found in BEGUN.finditer(log)}
    done = {found["stage"]: (seconds_of(found["at"]), float(found["seconds"])) for found in DONE.finditer(log)}
    if missing := [stage for stage in STAGES if stage not in begun or stage not in done]:
        raise RuntimeError(f"no request or result of {', '.join(missing)} in the log:\n{log[-3000:]}")
    before, splits = began, {}
    for stage in STAGES:
        at, work = done[stage]
        splits[stage] = Split(begun[stage] - before, at - begun[stage] - work, work)
        before = at
    return splits | {"end": Split(ended - before, 0.0, 0.0)}


def table(rounds: dict[str, list[dict[str, Split]]]) -> str:
    """Medians over the rounds as a Markdown table, and each runtime's whole run compared with the first one's."""
    lines = ["| stage | runtime | Airflow | start | work | all |", "|---|---|---|---|---|---|"]
    for stage in (*STAGES, "end"):
        for runtime, runs in rounds.items():
            parts = [statistics.median(getattr(one[stage], part) for one in runs) for part in PARTS]
            cells = " | ".join(f"{value:.1f}" for value in (*parts, sum(parts)))
            lines.append(f"| {stage} | {runtime} | {cells} |")
    lines += [
        "",
        "| whole run | Airflow | start | work | all, lowest and highest | ratio |",
        "|---|---|---|---|---|---|",
    ]
    first = None
    for runtime, runs in rounds.items():
        sums = [[sum(getattr(one, part) for one in found.values()) for part in (*PARTS, "all")] for found in runs]
        middle = [statistics.median(values) for values in zip(*sums, strict=True)]
        first = first or middle[3]
        wholes = sorted(values[3] for values in sums)
        spread = f"{middle[3]:.1f} ({wholes[0]:.1f} to {wholes[-1]:.1f})"
        parts = " | ".join(f"{value:.1f}" for value in middle[:3])
        lines.append(f"| {runtime} | {parts} | {spread} | {middle[3] / first:.2f} |")
    return "\n".join(lines)


def seconds_of(stamp: str) -> float:
    """Turn the time of a log line into seconds since 1970."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.runtimes", description=__doc__.splitlines()[0])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the page to this file")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error(f"--rounds={given.rounds}: give 1 or more")
    rounds: dict[str, list[dict[str, Split]]] = {runtime: [] for runtime in given.runtimes}
    try:
        for number in range(given.rounds + 1):
            for runtime in given.runtimes:
                found = run(runtime)
                if number:  # the first round only warms up caches
                    rounds[runtime].append(found)
                whole = sum(one.all for one in found.values())
                print(f"round {number}, {runtime}: {whole:.1f} s", file=sys.stderr, flush=True)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    text = table(rounds)
    print(text)
    if given.write:
        about = __doc__.split("\n\n")[2].replace("\n", " ").strip()
        command = "make bench-runtimes ARGS='--write docs/benchmarks/runtimes.md'"
        machine = f"{os.cpu_count()} cores of {cpu_model()}"
        head = f"# Runtimes\n\nWritten by `{command}`; medians of {given.rounds} rounds; {machine}.\n\n{about}\n\n"
        given.write.write_text(head + text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
