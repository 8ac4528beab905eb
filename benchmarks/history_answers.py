"""The past that `benchmarks/history.py` plants, and the answers that are right with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy
from mlflow import MlflowClient
from sqlalchemy import Engine

from benchmarks.old_installation import Original, Writer, add_records, add_versions, chain_records, move_back
from tasks.records import artifact_names, ledger, queries, registry, removed_weights, tracking, tuned_sets
from tasks.records.ledger import Entry, Kind
from tasks.settings import load_settings

TRIALS = 20
DAY = 24 * 3600 * 1000  # milliseconds
KEPT_DAYS = 90  # default of PIPELINE_KEEP_WEIGHTS_DAYS
OTHER = "other-classifier"
BAD = hashlib.sha256(b"rolled back three years ago").hexdigest()


@dataclass(frozen=True)
class Size:
    """How much the past of an installation holds; by default that of three years."""

    days: int = 1100
    searches: int = 150
    versions: int = 1200
    records: int = 3000
    met: int = 400
    """Candidates of the champion: more than a year without a better one."""

    @classmethod
    def scaled(cls, scale: float) -> Size:
        """Return a share of three years, of 100 days or more."""
        whole = cls()
        return cls(
            days=max(100, round(whole.days * scale)),
            searches=max(2, round(whole.searches * scale)),
            versions=max(110, round(whole.versions * scale)),
            records=max(270, round(whole.records * scale)),
            met=max(36, round(whole.met * scale)),
        )

    @property
    def abandoned(self) -> range:
        """Days that led to no version and no record; their gold is left over, and there is a folder for it."""
        return range(0, self.days - 30, 50)


@dataclass
class Past:
    """What is in the old installation, as far as answers depend on it."""

    model: str
    champion: int
    days: list[str]
    """IDs of the stage runs to copy, in one DAG run."""
    tune_run_id: str
    dag_run_id: str
    size: Size = field(default_factory=Size)
    met: int = 0
    """Candidates that the champion was compared with."""
    records: int = 0
    left: list[str] = field(default_factory=list)
    """IDs of the runs whose gold is left over."""
    days_since: int = 0
    """Days that were measured since it was planted; each may have written a record."""
    kept: list[str] = field(default_factory=list)
    """IDs of runs whose gold only the oldest record or a version refers to."""
    weights: list[str] = field(default_factory=list)
    """IDs of the runs whose weights are to go: of abandoned days, longer ago than weights are kept."""

    def check_output(self, command: str, text: str) -> None:
        """Check what a command printed.

        Raises:
            AssertionError: it is wrong.
        """
        if command == "history":
            older = int(text.rpartition(" older records are not shown")[0].split()[-1])
            _equal("older records", self.records - 50 <= older <= self.records - 50 + self.days_since, True)
        elif command == "tune-results":
            _equal("trials of the newest search", f"{TRIALS} finished" in text or f"{TRIALS} completed" in text, True)
        elif command == "gc":
            for kind, expected in (("gold", self.left), ("weights", self.weights)):
                lines = [line for line in text.splitlines() if re.match(rf"{kind}[ ,]", line)]
                _equal(f"{kind} left over", set(re.findall(r"\b[0-9a-f]{32}\b", "\n".join(lines))), set(expected))


def plant(past: Past, engine: Engine, artifacts: Path) -> None:
    """Write the past, and the answers to expect, into `past`."""
    size = past.size
    abandoned = size.abandoned
    experiment_id = tracking.connect(load_settings())
    records_in = tracking.experiment(ledger.EXPERIMENT, load_settings().artifact_root)
    real = list(ledger.history())
    move_back(engine, [record.run_id for record in real], size.days * DAY)
    now = MlflowClient().get_run(past.days[0]).info.start_time
    parent = MlflowClient().get_run(past.days[0]).data.tags["mlflow.parentRunId"]
    whole_day = Original(engine, [parent, *past.days], [past.dag_run_id])
    trials = [run.info.run_id for run in queries.all_runs(experiment_id, {"mlflow.parentRunId": past.tune_run_id})]
    trial = Original(engine, trials[:1], [past.tune_run_id, past.dag_run_id])
    search = Original(engine, [past.tune_run_id], [past.dag_run_id])
    prepare, train, evaluate = past.days[:3]
    first = registry.by_number(past.model, 1)
    with Writer(engine) as writer:
        for number in range(size.days):
            whole_day.copy(writer, f"d{number}", (number - size.days) * DAY)
        for number in range(size.searches):
            _search(writer, search, trial, past.tune_run_id, number, (number - size.searches + 1) * 7 * DAY + 1000)
        numbers = iter(range(past.champion + 1, 10 * size.versions))
        for model in (past.model, OTHER):
            used = [day for day in range(size.days) if day not in abandoned][: size.versions // 2]
            ids = {day: (whole_day.renamed(train, f"d{day}"), whole_day.renamed(prepare, f"d{day}")) for day in used}
            versions = {}
            for number, (day, (train_id, prepare_id)) in zip(numbers, ids.items(), strict=False):
                tags = {name: whole_day.renamed(value, f"d{day}") for name, value in first.tags.items()}
                tags |= {registry.SHA256: _sha(model, day), "pipeline.prepare_run_id": prepare_id}
                if model == OTHER:
                    tune = whole_day.renamed(past.tune_run_id, f"d{day}")
                    tags |= {tuned_sets.TUNE_RUN: tune}
                versions[number] = (train_id, now + (day - size.days) * DAY, tags)
            add_versions(writer, model, versions)
            half = (size.records - len(real)) // 2
            evidence = [whole_day.renamed(evaluate, f"d{day}") for day in range(size.days) if day not in abandoned]
            entries = list(_entries(past, model, half, sorted(versions), evidence))
            start = now - size.days * DAY + DAY // 2
            step = (size.days - 2) * DAY // half
            add_records(writer, records_in, [(entry, start + i * step) for i, entry in enumerate(entries)])
            past.records += len(entries)
            if model == OTHER:
                others_champion = entries[-1].to_version
            else:
                met = (e for e in entries if e.kind is Kind.REFUSAL and e.from_version == past.champion)
                past.met = len({entry.candidate_sha256 for entry in met})
    MlflowClient().set_registered_model_alias(OTHER, registry.CHAMPION, str(others_champion))
    chain_records(engine, records_in)
    past.records += len(real)
    past.left = [whole_day.renamed(prepare, f"d{day}") for day in abandoned]
    past.kept = [whole_day.renamed(prepare, f"d{day}") for day in (1, size.days - 31)]
    client = MlflowClient()
    for run_id in (*past.left, *past.kept):
        _write(_place(str(client.get_run(run_id).info.artifact_uri), artifacts) / "gold")
    past.weights = [whole_day.renamed(train, f"d{day}") for day in abandoned if size.days - day > KEPT_DAYS]
    staying = [whole_day.renamed(train, f"d{day}") for day in (1, abandoned[-1])]  # of a version, and not old enough
    for run_id in (*past.weights, *staying):
        model = client.get_run(run_id).data.tags[artifact_names.MODEL_URI].removeprefix("models:/")
        location = str(client.get_logged_model(model).artifact_location)
        _write(_place(location, artifacts) / removed_weights.FILES)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("ANALYZE"))  # as autovacuum does on a server that has run for years


def _place(uri: str, artifacts: Path) -> Path:
    """Find the folder of artifacts on this machine."""
    if uri.startswith("mlflow-artifacts:/"):
        return artifacts / uri.removeprefix("mlflow-artifacts:/")
    return Path(uri.removeprefix("file://"))


def _write(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"some bytes")


def _search(writer: Writer, search: Original, trial: Original, tune_run_id: str, number: int, later: int) -> None:
    name = f"s{number}"
    kept = {tune_run_id: search.renamed(tune_run_id, name)}
    search.copy(writer, name, later)
    for index in range(TRIALS):
        trial.copy(writer, f"{name}-{index}", later + index, kept)


def _sha(model: str, day: int) -> str:
    return hashlib.sha256(f"{model} {day}".encode()).hexdigest()


def _entries(past: Past, model: str, count: int, versions: list[int], evidence: list[str]) -> Iterator[Entry]:
    """Make half of the ledger, first a rollback: refusals, the last by the champion; or a promotion every day."""
    champion = past.champion if model != past.model else versions[0]
    for number in range(count):
        version = versions[number % len(versions)]
        if model == past.model and number == count - past.size.met:
            champion = past.champion
        kind = Kind.ROLLBACK if number == 0 else Kind.REFUSAL if model == past.model else Kind.PROMOTION
        moves = kind is not Kind.REFUSAL and model != past.model
        before = past.champion if number == 0 else champion  # the newest move of the measured model made its champion
        yield Entry(
            key=f"daily_training/{model}-{number}/register/-1",
            kind=kind,
            registered_model=model,
            from_version=before,
            to_version=version if moves else before,
            candidate_version=version,
            candidate_sha256=hashlib.sha256(f"{model} candidate {number}".encode()).hexdigest(),
            by="benchmark",
            reason="one of many",
            evidence_run_id=evidence[number % len(evidence)],
            former_sha256=BAD if number == 0 else None,
        )
        champion = version if moves else champion


def check_answers(past: Past) -> None:
    """Ask the ledger and the registry what a stage asks, of both ends of the history.

    Raises:
        AssertionError: an answer is wrong.
    """
    new = hashlib.sha256(b"new").hexdigest()
    met = ledger.comparisons(past.model, past.champion, new)
    _equal("candidates", past.met <= met <= past.met + past.days_since, True)
    _equal("champion before", ledger.champion_before(past.model, past.champion), 1)
    for model in (past.model, OTHER):
        _equal(f"what was rolled back of {model}", bool(ledger.rolled_back(model, BAD)), True)
    _equal("rolled back", ledger.rolled_back(past.model, new), None)
    _equal("tuned set", tuned_sets.newest_proven(OTHER, "digits", "resnet18"), None)
    found = tuned_sets.newest_proven(OTHER, "digits", "fast_cnn")
    _equal("newest tuned set", found is not None, True)
    _equal("versions", len(list(queries.find_versions())) >= past.size.versions, True)


def _equal(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{what}: {found!r} instead of {expected!r}")
