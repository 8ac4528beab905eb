"""Runs the daily DAG repeatedly on the whole stack, some runs with a stage killed; checks for leftovers and growth.

python -m tests.soak [--runs 100] [--kills 0.1] [--seed 0] [--out FILE]

Airflow's scheduler runs `daily_training` on `digits` with step reuse off, each time with another seed, so that every
stage does its work and every model is promoted. The stack's resources are counted after each run. Needs an engine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient

from tasks.records import queries
from tasks.text_table import columns

from .growth import Day, ends, growths

if TYPE_CHECKING:
    from tests.stack.airflow_stack.conftest import User
    from tests.stack.conftest import Stack

STAGES = ("prepare", "train", "evaluate", "register", "deploy")
MODEL = "soak"
LONGEST = 5.0  # most seconds that a stage works before it is killed
PATIENCE = 900.0  # seconds for one run, its retries included


class Soak:
    """Runs on one stack."""

    def __init__(self, stack: Stack, admin: User, *, runs: int, kills: float, seed: int) -> None:
        """Choose by the seed in which runs which stage is killed; nothing is run yet."""
        self._stack, self._admin, self._runs = stack, admin, runs
        self._chance = random.Random(seed)  # noqa: S311  # a choice, not a secret
        chosen = sorted(self._chance.sample(range(runs), round(kills * runs)))
        self._kills = {number: self._chance.choice(STAGES) for number in chosen}
        self._client = MlflowClient(stack.mlflow_url)

    def counts(self) -> dict[str, int]:
        """What the stack holds now."""
        from .probe import counts

        return counts(self._stack, self._client, MODEL)

    def days(self) -> Iterator[Day]:
        """Run the DAG once per day, and count after each run."""
        for number in range(self._runs):
            began = time.monotonic()
            state, killed = self._run(number)
            seconds = time.monotonic() - began
            yield Day(number, seconds, killed, state, self.counts())

    def wrong(self, days: Sequence[Day]) -> list[str]:
        """What is wrong in MLflow after all runs, one line each; empty when nothing is."""
        failed = [f"run {day.number} ended as {day.state}" for day in days if day.state != "success"]
        experiment = self._client.get_experiment_by_name(MODEL)
        if experiment is None:
            return [*failed, "no run is in MLflow"]
        runs = queries.all_runs(experiment.experiment_id, {})
        stages = Counter((run.data.tags.get("pipeline.stage", "?"), run.info.status) for run in runs)
        expected = Counter({(stage, "FINISHED"): len(days) for stage in ("pipeline", *STAGES)})
        if stages != expected:
            failed.append(f"MLflow's runs are {dict(stages)}, not {dict(expected)}")
        versions = len(list(queries.find_versions(MODEL)))
        if versions != len(days):
            failed.append(f"{versions} versions are registered by {len(days)} runs")
        left = self._leftovers()
        # Checkpoints of registered models go when their DAG run has been idle for a week; here they are minutes old.
        rows = [line for line in left.splitlines() if re.match(r"unfinished run|gold|weights|state of a search", line)]
        well = "nothing is left over" in left or "would be removed" in left
        return [*failed, *([f"make gc finds:\n{left}"] if rows or not well else [])]

    def _run(self, number: int) -> tuple[str, str]:
        """Run one day; return its state, and the stage whose container was killed."""
        from tests.stack.airflow_stack.conftest import ended, trigger

        run_id = f"soak-{number:04}"
        conf = {"dataset": "digits", "epochs": 3, "seed": number, "force": ["all"], "registered_model": MODEL}
        trigger(self._admin, run_id, **conf)
        killed = self._kill(run_id, self._kills.get(number))
        state, _ = ended(self._admin, run_id, seconds=PATIENCE)
        return state, killed

    def _kill(self, run_id: str, stage: str | None) -> str:
        from .probe import kill, stage_container

        if stage is None:
            return ""
        deadline = time.monotonic() + PATIENCE
        while (container := stage_container(run_id, stage)) is None:
            if time.monotonic() > deadline:
                return ""
            time.sleep(0.2)
        time.sleep(self._chance.uniform(0, LONGEST))
        return stage if kill(container) else ""

    def _leftovers(self) -> str:
        """What `make gc` would remove without a minimum age."""
        variables = {"PIPELINE_EXPERIMENT": MODEL, "MLFLOW_TRACKING_URI": self._stack.mlflow_url}
        command = [sys.executable, "-m", "tasks", "gc", "--days", "0"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
        return done.stdout + done.stderr


@contextmanager
def on_a_stack(**options: float) -> Iterator[Soak]:
    """A stack of its own, both compose files, empty."""
    os.environ.setdefault("TEST_STACK", "vm-soak")
    os.environ.setdefault("TEST_STACK_PORT", "21510")
    from tests.stack.airflow_stack.conftest import DAG, administrator, working
    from tests.stack.conftest import running

    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        work = Path(name) / "work"
        work.mkdir()
        with running(Path(name)) as state, working(state, work, MODEL) as stack:
            os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = stack.login
            admin = administrator(stack)
            admin.ask("PATCH", DAG, {"is_paused": False}).raise_for_status()
            yield Soak(stack, admin, runs=int(options["runs"]), kills=options["kills"], seed=int(options["seed"]))


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Run; 0 when every run succeeded, nothing is left over, and nothing grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--kills", type=float, default=0.1, help="share of runs with a stage killed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides which stage is killed, and when (%(default)s)")
    parser.add_argument("--out", type=Path, help="also write a line of JSON for every run to this file")
    given = parser.parse_args(arguments)
    if not 0 <= given.kills <= 1:
        parser.error(f"--kills={given.kills:g}: give a share from 0 to 1")
    try:
        ends([Day(number, 0, "", "") for number in range(given.runs - round(given.kills * given.runs))])
    except ValueError as error:
        parser.error(f"--runs={given.runs}: without those in which a stage is killed, {error}")
    days: list[Day] = []
    with on_a_stack(runs=given.runs, kills=given.kills, seed=given.seed) as soak:
        before = soak.counts()
        for day in soak.days():
            days.append(day)
            say(f"run {day.number}: {day.state}, {day.seconds:.0f} s{f', {day.killed} killed' if day.killed else ''}")
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(asdict(day)) + "\n")
        wrong = soak.wrong(days)
    return _told(before, days, wrong, say)


def _told(before: Mapping[str, int], days: Sequence[Day], wrong: Sequence[str], say: Callable[[str], None]) -> int:
    found = growths(before, days)
    rows = [("what", "first", "last", "growth", "")]
    rows += [(g.name, f"{g.first:g}", f"{g.last:g}", g.text, "TOO MUCH" if g.too_much else "") for g in found]
    say(columns(rows))
    killed = Counter(day.killed for day in days if day.killed)
    say(f"{len(days)} runs, {killed.total()} of them with a stage killed ({', '.join(sorted(killed)) or 'none'})")
    for line in wrong:
        say(f"WRONG: {line}")
    return 1 if wrong or any(growth.too_much for growth in found) else 0


if __name__ == "__main__":
    sys.exit(main(say=lambda line: print(line, flush=True)))
