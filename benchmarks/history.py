"""What three years of history cost: `make bench-history`.

Two installations, one fresh and one with 1,100 daily runs of seven stages, 150 searches of 20 trials, 1,200 versions
and 3,000 ledger records (`benchmarks/old_installation.py`: copies of what real stages wrote), or with a share of that
(`--scale 0.1`). Both on SQLite, as `make run` has it, and on Postgres behind MLflow's server, as the stack has it. In
the old one, half of the ledger is about the daily model: refusals, the last 400 by its champion, which is as old as the
installation. The other half is about another registered model, promoted every day, with tuned hyperparameters.

    daily     prepare, train (2 epochs), evaluate and register of digits, nothing reused: the same in both, in turns
    commands  what a person waits for, process and imports included: history, tune-results, gc; and the stage rollback

Seconds of CPU, of this process, its commands and MLflow's server, so that other work on the machine counts little; and
seconds of the clock. Every answer is checked.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy

from benchmarks.history_answers import Past, Size, check_answers, plant
from benchmarks.history_installations import Installation, Measure, Measures, free_port, output, postgres, sqlite
from benchmarks.machine import cpu_model
from benchmarks.old_installation import rows_of
from benchmarks.report_file import write_above
from tasks.contract.messages import StageResult
from tasks.records import ledger
from tasks.runner.stage_process import execute
from tasks.vision.cpus import available_cpus

GATE = {"max_slowdown": 1000.0, "max_memory_growth": 1000.0, "max_calibration_error": 1.0}  # not what is measured
GATE |= {"min_accuracy": 0.1, "min_macro_f1": 0.0}
MODEL = "vision-classifier"
STAGES_OF_A_DAY, DAILY = ("prepare", "train", "evaluate", "register"), "daily"
LIMITS = {"history": 5.0, "tune-results": 5.0, "rollback": 5.0, "gc": 30.0}  # seconds
RATIO = 1.1
DAG_RUN = "template__first-day"
NOTES = "## What was slow"


def stage(at: Installation, name: str, dag_run_id: str, **fields: Any) -> StageResult:
    """Run a stage in this process."""
    os.environ |= at.environment
    task = {"dag_id": "daily_training", "dag_run_id": dag_run_id, "task_id": name}
    return execute(name, json.dumps({"task": task, **fields}))


def day(at: Installation, dag_run_id: str, seed: int, found: Measures) -> dict[str, StageResult]:
    """Run the stages of a day; return their results."""
    results: dict[str, StageResult] = {}

    def run(name: str, **fields: Any) -> str:
        with at.measured(found, name):
            results[name] = stage(at, name, dag_run_id, **fields)
        return results[name].run_id

    prepared = run("prepare", dataset="digits")
    trained = run("train", prepare_run_id=prepared, epochs=2, seed=seed, device="cpu", force=["all"])
    evaluated = run("evaluate", train_run_id=trained, force=["all"], **GATE)
    run("register", evaluate_run_id=evaluated, approval={})
    return results


def template(at: Installation) -> Past:
    """Run each stage once in a fresh installation, and a second day whose model is the champion then."""
    first = day(at, DAG_RUN, 1, {})
    prepared = first["prepare"].run_id
    search = {"trials": 2, "epochs": 2, "searcher": "random", "scheduler": "none", "concurrent_trials": 1}
    tuned = stage(at, "tune", DAG_RUN, prepare_run_id=prepared, model="fast_cnn", device="cpu", **search)
    compressed = stage(at, "compress", DAG_RUN, calibration_images=50)
    os.environ["SERVING_URL"] = f"http://127.0.0.1:{free_port()}"
    try:
        deployed = stage(at, "deploy", DAG_RUN, version=1, registered_model=MODEL, deploy_timeout=300)
    finally:
        output([sys.executable, "-m", "tasks", "serve", "--stop"], os.environ)
    second = day(at, "second", 2, {})
    register = json.loads(second["register"].model_dump_json())
    if not register["promoted"]:
        ledger.move_champion(
            ledger.Entry(
                key="daily_training/second/by-hand",
                kind=ledger.Kind.PROMOTION,
                registered_model=MODEL,
                from_version=1,
                to_version=register["version"],
                candidate_version=register["version"],
                candidate_sha256=json.loads(second["train"].model_dump_json())["model_sha256"],
                by="benchmark",
                reason="the champion of this benchmark",
                evidence_run_id=second["evaluate"].run_id,
            )
        )
    return Past(
        model=MODEL,
        champion=register["version"],
        days=[first[name].run_id for name in STAGES_OF_A_DAY] + [tuned.run_id, compressed.run_id, deployed.run_id],
        tune_run_id=tuned.run_id,
        dag_run_id=DAG_RUN,
    )


def commands(at: Installation, past: Past | None, found: Measures) -> None:
    """Measure the commands, and with a past check what they say."""
    for name in ("history", "tune-results", "gc"):
        command, environment = [sys.executable, "-m", "tasks", name], os.environ | at.environment
        with at.measured(found, name):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            raise RuntimeError(f"`python -m tasks {name}` failed:\n{done.stderr[-3000:]}")
        if past is not None:
            past.check_output(name, done.stdout)
    with at.measured(found, "rollback"):
        result = stage(at, "rollback", "measured-rollback", reason="measured")
    rolled = json.loads(result.model_dump_json())
    if (rolled["version"], rolled["previous_version"]) != (1, past.champion if past else rolled["previous_version"]):
        raise RuntimeError(f"rollback went from {rolled['previous_version']} to {rolled['version']}")


def measure(at: tuple[Installation, Installation], past: Past, rounds: int) -> dict[str, Measures]:
    """Measure both installations in turns; return the measures of each round, by installation and part."""
    found: dict[str, Measures] = {side.name: {} for side in at}
    for number in range(rounds + 1):
        for side in at:
            once: Measures = {}
            day(side, f"measured-{number}", 100 + number, once)
            once[DAILY] = [Measure(*map(sum, zip(*(parts[0] for parts in once.values()), strict=True)))]
            print(f"{side.name}, day {number}: {once[DAILY][0]}", file=sys.stderr, flush=True)
            if number:  # the first warms up
                for name, measures in once.items():
                    found[side.name].setdefault(name, []).extend(measures)
        past.days_since += 1
    os.environ |= at[1].environment
    check_answers(past)
    for side in at:
        commands(side, past if side is at[1] else None, found[side.name])
        print(f"{side.name}: { {name: found[side.name][name][0] for name in LIMITS} }", file=sys.stderr, flush=True)
    return found


def middle(measures: Sequence[Measure]) -> Measure:
    """Return the medians."""
    return Measure(*(statistics.median(values) for values in zip(*measures, strict=True)))


def table(found: Mapping[str, Measures]) -> list[str]:
    """Lay out medians as Markdown, one row per part, and what they have to be."""
    names = list(found)
    lines = [f"| | {' | '.join(names)} | target |", f"|---|{'---|' * len(names)}---|"]
    for part in (*STAGES_OF_A_DAY, DAILY, *LIMITS):
        cells = [f"{value.cpu:.1f} ({value.clock:.1f})" for value in (middle(found[name][part]) for name in names)]
        target = f"{RATIO} times fresh" if part == DAILY else f"{LIMITS[part]:.0f} s" if part in LIMITS else ""
        lines.append(f"| {part} | {' | '.join(cells)} | {target} |")
    return lines


def missed(found: Mapping[str, Measures]) -> list[str]:
    """Name the targets that were missed, by seconds of CPU."""
    wrong = []
    for database in ("SQLite", "Postgres"):
        if (old := found.get(f"{database}, old")) is None:
            continue
        ratio = middle(old[DAILY]).cpu / middle(found[f"{database}, fresh"][DAILY]).cpu
        print(f"{database}: the daily run takes {ratio:.2f} times the fresh one's", file=sys.stderr)
        wrong += [f"{database}: the daily run takes {ratio:.2f} times as long"] if ratio > RATIO else []
        wrong += [f"{database}: {name} takes {old[name]}" for name in LIMITS if middle(old[name]).cpu > LIMITS[name]]
    return wrong


def main() -> int:
    """Measure what is asked for, and print or write the report; 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("databases", nargs="*", choices=["sqlite", "postgres", []], help="default: both")
    parser.add_argument("--postgres", metavar="URL", help="a server to use; default: a container")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of three years, to try this program (default: 1)"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the report to this file")
    options = parser.parse_args()
    logging.getLogger("tasks").setLevel(logging.ERROR)
    found: dict[str, Measures] = {}
    sizes: dict[str, int] = {}
    for name in options.databases or ["sqlite", "postgres"]:
        with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as folder:
            path = Path(folder)
            pair = sqlite(path, template) if name == "sqlite" else postgres(path, options.postgres, template)
            with pair as (fresh, old, past):
                engine = sqlalchemy.create_engine(old.database)
                os.environ |= old.environment
                past.size = Size.scaled(options.scale)
                began = time.perf_counter()
                plant(past, engine, old.artifacts)
                print(f"planted the past in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
                sizes = rows_of(engine)
                engine.dispose()
                found |= measure((fresh, old), past, options.rounds)
    rows = ", ".join(f"{count:,} rows in `{name}`" for name, count in sizes.items())
    lines = [
        "# Three years of history",
        "",
        "Written by `make bench-history ARGS='--write docs/benchmarks/history.md'`; the top of `benchmarks/history.py`",
        "describes both sides. Seconds of CPU, and in brackets of the clock; those of the day are medians of",
        f"{options.rounds} rounds. The old installation has {rows}.",
        *([f"This is {options.scale:g} of three years."] if options.scale != 1 else []),
        "",
        *table(found),
        "",
        f"{available_cpus()} cores of {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        write_above(NOTES, text, options.write)
    for line in (wrong := missed(found)):
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
