"""What three years of history cost: `make bench-history`.

Two installations, one fresh and one with 1,100 daily runs of seven stages, 150 searches of 20 trials, 1,200 versions
and 3,000 ledger records (`benchmarks/old_installation.py`: copies of what real stages wrote). Both on SQLite, as `make
run` has it, and on Postgres behind MLflow's server, as the stack has it. In the old one, half of the ledger is about the
champion, which is as old as the installation and has met 1,400 candidates since; the other half is about another
registered model, which was promoted every day by tuned hyperparameters for another network.

    daily     prepare, train (2 epochs), evaluate and register of digits, nothing reused: the same in both, in turns
    commands  what a person waits for, process and imports included: history, tune-results, gc; and the stage rollback

Every answer is checked. Postgres is a container, or the server that --postgres names (a URL, its user may create
databases).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import sqlalchemy

from benchmarks.history_answers import Past, check_answers, plant
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
DAILY, COMMANDS = ("prepare", "train", "evaluate", "register"), ("history", "tune-results", "gc", "rollback")
LIMITS = {"history": 5.0, "tune-results": 5.0, "rollback": 5.0, "gc": 30.0}  # seconds
RATIO = 1.1
DAG_RUN = "template__first-day"
NOTES = "## What was slow"


@dataclass(frozen=True)
class Installation:
    """An MLflow with what it holds."""

    name: str
    home: Path
    tracking_uri: str
    database: str
    artifacts: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which stages and commands find it."""
        return {
            "PIPELINE_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "PIPELINE_RUNTIME": "local",
        }


def stage(at: Installation, name: str, dag_run_id: str, **fields: Any) -> StageResult:
    """Run a stage in this process."""
    os.environ |= at.environment
    task = {"dag_id": "daily_training", "dag_run_id": dag_run_id, "task_id": name}
    return execute(name, json.dumps({"task": task, **fields}))


def day(at: Installation, dag_run_id: str, seed: int) -> tuple[dict[str, StageResult], dict[str, float]]:
    """Run the stages of a day; return their results and how many seconds each took."""
    results: dict[str, StageResult] = {}
    seconds = {}

    def run(name: str, **fields: Any) -> str:
        began = time.perf_counter()
        results[name] = stage(at, name, dag_run_id, **fields)
        seconds[name] = time.perf_counter() - began
        return results[name].run_id

    prepared = run("prepare", dataset="digits")
    trained = run("train", prepare_run_id=prepared, epochs=2, seed=seed, device="cpu", force=["all"])
    evaluated = run("evaluate", train_run_id=trained, force=["all"], **GATE)
    run("register", evaluate_run_id=evaluated, approval={})
    return results, seconds


def template(at: Installation) -> Past:
    """Run each stage once in a fresh installation, and a second day whose model is the champion then."""
    first, _ = day(at, DAG_RUN, seed=1)
    prepared = first["prepare"].run_id
    search = {"trials": 2, "epochs": 2, "searcher": "random", "scheduler": "none", "concurrent_trials": 1}
    tuned = stage(at, "tune", DAG_RUN, prepare_run_id=prepared, model="fast_cnn", device="cpu", **search)
    compressed = stage(at, "compress", DAG_RUN, calibration_images=50)
    os.environ["SERVING_URL"] = f"http://127.0.0.1:{_free_port()}"
    try:
        deployed = stage(at, "deploy", DAG_RUN, version=1, registered_model=MODEL, deploy_timeout=300)
    finally:
        _output([sys.executable, "-m", "tasks", "serve", "--stop"], os.environ)
    second, _ = day(at, "second", seed=2)
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
        days=[first[name].run_id for name in DAILY] + [tuned.run_id, compressed.run_id, deployed.run_id],
        tune_run_id=tuned.run_id,
        dag_run_id=DAG_RUN,
    )


def commands(at: Installation, past: Past | None) -> dict[str, float]:
    """Measure the commands, and with a past check what they say."""
    seconds = {}
    for name in ("history", "tune-results", "gc"):
        began = time.perf_counter()
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "tasks", name], env=os.environ | at.environment, capture_output=True, text=True
        )
        seconds[name] = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"`python -m tasks {name}` failed:\n{done.stderr[-3000:]}")
        if past is not None:
            past.check_output(name, done.stdout)
    began = time.perf_counter()
    rolled = json.loads(stage(at, "rollback", f"back-{time.time_ns()}", reason="measured").model_dump_json())
    seconds["rollback"] = time.perf_counter() - began
    if (rolled["version"], rolled["previous_version"]) != (1, past.champion if past else rolled["previous_version"]):
        raise RuntimeError(f"rollback went from {rolled['previous_version']} to {rolled['version']}")
    return seconds


@contextmanager
def sqlite(folder: Path) -> Iterator[tuple[Installation, Installation, Past]]:
    """Two installations as `make run` has them; the old one has the artifacts of the fresh one."""

    def at(name: str) -> Installation:
        home = folder / name
        file = f"sqlite:///{home}/mlflow.db"
        return Installation(f"SQLite, {name}", home, file, file, folder / "fresh" / "artifacts")

    fresh, old = at("fresh"), at("old")
    past = template(fresh)
    old.home.mkdir()
    shutil.copy(fresh.home / "mlflow.db", old.home / "mlflow.db")
    yield fresh, old, past


@contextmanager
def postgres(folder: Path, url: str | None) -> Iterator[tuple[Installation, Installation, Past]]:
    """Two databases on one Postgres, each behind an MLflow server of its own, with the same artifacts."""
    artifacts = folder / "artifacts"
    with ExitStack() as stack:
        url = url or stack.enter_context(container())
        _sql(url, "CREATE DATABASE fresh")

        def at(name: str) -> Installation:
            database = f"{url.rpartition('/')[0]}/{name}"
            address = stack.enter_context(server(database, artifacts, folder / f"{name}.log"))
            return Installation(f"Postgres, {name}", folder / name, address, database, artifacts)

        fresh = at("fresh")
        past = template(fresh)
        _sql(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'fresh'")
        _sql(url, "CREATE DATABASE old TEMPLATE fresh")
        yield fresh, at("old"), past


@contextmanager
def container() -> Iterator[str]:
    """Run Postgres in a container; yield its URL."""
    image = os.environ.get("POSTGRES_IMAGE", "postgres:17-trixie")
    password = os.urandom(16).hex()
    command = ["docker", "run", "--detach", "--rm", "--publish", "127.0.0.1::5432", "--env", "POSTGRES_PASSWORD", image]
    name = _output(command, os.environ | {"POSTGRES_PASSWORD": password})
    try:
        port = _output(["docker", "port", name, "5432"]).rpartition(":")[2]
        url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        _until(lambda: _sql(url, "SELECT 1"), sqlalchemy.exc.OperationalError, "Postgres does not answer")
        yield url
    finally:
        _output(["docker", "stop", name])


@contextmanager
def server(database: str, artifacts: Path, log: Path) -> Iterator[str]:
    """Run MLflow's server; yield its address."""
    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(artifacts), "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:  # noqa: S603
        try:
            address = f"http://127.0.0.1:{port}"
            health = f"{address}/health"
            _until(lambda: requests.get(health, timeout=5).raise_for_status(), requests.RequestException, log.read_text)
            yield address
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _until(call: Any, error: type[Exception], problem: Any, seconds: float = 180.0) -> None:
    limit = time.monotonic() + seconds
    while True:
        try:
            call()
        except error:
            if time.monotonic() > limit:
                raise RuntimeError(problem if isinstance(problem, str) else problem()) from None
            time.sleep(0.5)
        else:
            return


def _sql(url: str, statement: str) -> None:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def _output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.split()[0] if done.stdout.strip() else ""


def measure(at: tuple[Installation, Installation], past: Past, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Measure both installations in turns; return the seconds of each round, by installation and part."""
    found: dict[str, dict[str, list[float]]] = {side.name: {} for side in at}
    for number in range(rounds + 1):  # the first warms up
        for side in at:
            _, seconds = day(side, f"measured-{number}", seed=100 + number)
            if number:
                for name, value in {**seconds, "daily": sum(seconds.values())}.items():
                    found[side.name].setdefault(name, []).append(value)
            print(f"{side.name}, day {number}: {sum(seconds.values()):.1f} s", file=sys.stderr, flush=True)
    os.environ |= at[1].environment
    check_answers(past, rounds + 1)
    for side in at:
        past_or_none = past if side is at[1] else None
        for name, value in commands(side, past_or_none).items():
            found[side.name][name] = [value]
            print(f"{side.name}, {name}: {value:.1f} s", file=sys.stderr, flush=True)
    return found


def table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Lay out medians as Markdown, one row per part, and what they have to be."""
    names = list(found)
    lines = [f"| | {' | '.join(names)} | target |", f"|---|{'---|' * len(names)}---|"]
    for part in (*DAILY, "daily", *COMMANDS):
        cells = [f"{statistics.median(found[name][part]):.2f}" for name in names]
        target = f"{RATIO} times fresh" if part == "daily" else f"{LIMITS[part]:.0f} s" if part in LIMITS else ""
        lines.append(f"| {part} | {' | '.join(cells)} | {target} |")
    return lines


def missed(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Name the targets that were missed."""
    wrong = []
    for database in ("SQLite", "Postgres"):
        if (old := found.get(f"{database}, old")) is None:
            continue
        ratio = statistics.median(old["daily"]) / statistics.median(found[f"{database}, fresh"]["daily"])
        print(f"{database}: the daily run takes {ratio:.2f} times the fresh one's", file=sys.stderr)
        wrong += [f"{database}: the daily run takes {ratio:.2f} times as long"] if ratio > RATIO else []
        wrong += [f"{database}: {name} takes {old[name][0]:.1f} s" for name in LIMITS if old[name][0] > LIMITS[name]]
    return wrong


def main() -> int:
    """Measure what is asked for, and print or write the report; 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("databases", nargs="*", choices=["sqlite", "postgres", []], help="default: both")
    parser.add_argument("--postgres", metavar="URL", help="a server to use; default: a container")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the report to this file")
    options = parser.parse_args()
    logging.getLogger("tasks").setLevel(logging.ERROR)
    found: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, int] = {}
    for name in options.databases or ["sqlite", "postgres"]:
        with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as folder:
            path = Path(folder)
            pair = sqlite(path) if name == "sqlite" else postgres(path, options.postgres)
            with pair as (fresh, old, past):
                engine = sqlalchemy.create_engine(old.database)
                os.environ |= old.environment
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
        f"describes both sides. Seconds; the day's are medians of {options.rounds} rounds.",
        f"The old installation has {rows}.",
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
