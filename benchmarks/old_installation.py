"""Gives an MLflow database years of history in seconds: copies of what real stages wrote, row by row.

A copy has the tags, parameters, metrics, data sets and logged models of its original, under new IDs and digests and at
another time; its artifacts do not exist. Ledger records are made of `ledger.Entry`, as the ledger makes them.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import sqlalchemy
from mlflow.entities import Run
from mlflow.store.model_registry.dbmodels import models as registry_tables
from mlflow.store.tracking.dbmodels import models as tables
from sqlalchemy import Engine, Table, delete, insert, select

from tasks.records import ledger, queries
from tasks.records.ledger import Entry

RUN_COLUMNS = {  # tables that describe a run, and the column that holds its ID
    tables.SqlRun: "run_uuid",
    tables.SqlTag: "run_uuid",
    tables.SqlParam: "run_uuid",
    tables.SqlMetric: "run_uuid",
    tables.SqlLatestMetric: "run_uuid",
    tables.SqlLoggedModel: "source_run_id",
    tables.SqlInput: "destination_id",
}
MODEL_COLUMNS = {
    tables.SqlLoggedModelTag: "model_id",
    tables.SqlLoggedModelParam: "model_id",
    tables.SqlLoggedModelMetric: "model_id",
    tables.SqlInput: "destination_id",
}
TIMES = {"start_time", "end_time", "timestamp", "creation_timestamp_ms", "last_updated_timestamp_ms"}
TIMES |= {"metric_timestamp_ms", "creation_time", "last_updated_time"}
DIGEST = r"\b[0-9a-f]{64}\b"
BATCH = 20_000  # rows
Row = dict[str, Any]


class Writer:
    """Collects rows and inserts many at once; a context manager that inserts the rest at its end."""

    def __init__(self, engine: Engine) -> None:
        """Take the database of an MLflow that has its tables."""
        self.engine = engine
        self._rows: dict[Table, list[Row]] = {}
        self._count = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Insert the rest, unless something failed."""
        if kind is None:
            self.flush()

    def add(self, table: Table, row: Row) -> None:
        """Add one row."""
        self._rows.setdefault(table, []).append(row)
        self._count += 1
        if self._count >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Insert what was added; tables in the order of their references."""
        with self.engine.begin() as connection:
            for table in sorted(self._rows, key=lambda table: table.metadata.sorted_tables.index(table)):
                connection.execute(table.insert(), self._rows[table])
        self._rows, self._count = {}, 0


class Original:
    """Runs that stages wrote, with all that describes them, to be copied."""

    def __init__(self, engine: Engine, run_ids: Sequence[str], names: Sequence[str] = ()) -> None:
        """Read them.

        Args:
            engine: the database.
            run_ids: the runs.
            names: other names that a copy has its own of, such as that of the DAG run.
        """
        self._rows = _select(engine, RUN_COLUMNS, run_ids)
        models = [row["model_id"] for table, row in self._rows if table is tables.SqlLoggedModel.__table__]
        self._rows += _select(engine, MODEL_COLUMNS, models)
        inputs = [row["input_uuid"] for table, row in self._rows if table is tables.SqlInput.__table__]
        self._rows += _select(engine, {tables.SqlInputTag: "input_uuid"}, inputs)
        known = [*run_ids, *models, *inputs, *names]
        self._pattern = re.compile("|".join([*map(re.escape, sorted(known, key=len, reverse=True)), DIGEST]))
        self._named = {id(row): [name for name, value in row.items() if self._has_name(value)] for _, row in self._rows}

    def _has_name(self, value: object) -> bool:
        return isinstance(value, str) and self._pattern.search(value) is not None

    def renamed(self, text: str, copy: str, kept: Mapping[str, str] | None = None) -> str:
        """Replace IDs, names and digests in a text by those of a copy.

        Args:
            text: a value of a row.
            copy: name of the copy.
            kept: names that are given, not made, by the original's.
        """

        def name(found: re.Match[str]) -> str:
            old = found[0]
            if kept and old in kept:
                return kept[old]
            digest = hashlib.sha256(f"{old} {copy}".encode()).hexdigest()
            prefix = "m-" if old.startswith("m-") else ""
            known = re.fullmatch(r"(m-)?[0-9a-f-]{32,36}", old)
            return prefix + digest[:32] if known else digest if len(old) == 64 else f"{old}-{copy}"

        return self._pattern.sub(name, text)

    def copy(self, writer: Writer, copy: str, later: int, kept: Mapping[str, str] | None = None) -> None:
        """Write a copy that is `later` milliseconds later; other arguments as in `renamed`."""
        for table, row in self._rows:
            fresh = dict(row)
            for name in self._named[id(row)]:
                fresh[name] = self.renamed(row[name], copy, kept)
            for name in TIMES & row.keys():
                fresh[name] = row[name] and row[name] + later
            writer.add(table, fresh)


def _select(engine: Engine, columns: Mapping[Any, str], ids: Sequence[str]) -> list[tuple[Table, Row]]:
    found = []
    with engine.connect() as connection:
        for model, column in columns.items():
            table = model.__table__
            rows = connection.execute(select(table).where(table.c[column].in_(ids))).mappings()
            found += [(table, dict(row)) for row in rows]
    return found


def add_records(writer: Writer, experiment_id: str, entries: Iterable[tuple[Entry, int]]) -> None:
    """Write finished ledger records to their experiment, each with its start in milliseconds since 1970."""
    for entry, start in entries:
        run_id = uuid.uuid4().hex
        name = f"{entry.kind} {entry.registered_model} {entry.candidate_version}"
        run: dict[str, Any] = {
            "run_uuid": run_id,
            "name": name,
            "source_type": "UNKNOWN",
            "source_name": "",
            "entry_point_name": "",
        }
        run |= {"user_id": "benchmark", "status": "FINISHED", "start_time": start, "end_time": start + 50}
        run |= {"source_version": "", "lifecycle_stage": "active", "experiment_id": int(experiment_id)}
        run |= {"artifact_uri": f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts", "deleted_time": None}
        writer.add(tables.SqlRun.__table__, run)
        for key, value in {**entry.tags, "mlflow.runName": name}.items():
            writer.add(tables.SqlTag.__table__, {"run_uuid": run_id, "key": key, "value": value})


def chain_records(engine: Engine, experiment_id: str) -> None:
    """Let each record name the one of its registered model before it, as the ledger does when it writes one."""
    before: dict[str, Run] = {}
    links = []
    for run in queries.all_runs(experiment_id, {"ledger.key": queries.PRESENT}):  # the oldest first
        tags = run.data.tags
        previous = before.get(tags["ledger.registered_model"])
        tags[ledger.PREVIOUS] = ledger.link(previous) if previous else ledger.FIRST
        links.append({"run_uuid": run.info.run_id, "key": ledger.PREVIOUS, "value": tags[ledger.PREVIOUS]})
        before[tags["ledger.registered_model"]] = run
    table = tables.SqlTag.__table__
    with engine.begin() as connection:
        connection.execute(delete(table).where(table.c.key == ledger.PREVIOUS))
        connection.execute(insert(table), links)


def add_versions(
    writer: Writer, registered_model: str, versions: Mapping[int, tuple[str, int, Mapping[str, str]]]
) -> None:
    """Write versions of a registered model, which is made if there is none of that name.

    Args:
        writer: of the database.
        registered_model: its name.
        versions: by number: the ID of the train run, the time in milliseconds since 1970, and the tags.
    """
    models, numbers = registry_tables.SqlRegisteredModel.__table__, registry_tables.SqlModelVersion.__table__
    first = min(time for _, time, _ in versions.values())
    with writer.engine.connect() as connection:
        known = connection.execute(select(models).where(models.c.name == registered_model)).first()
    if known is None:
        times = {"creation_time": first, "last_updated_time": first}
        writer.add(models, {"name": registered_model, "description": "", **times})
    for number, (run_id, time, tags) in versions.items():
        row = {"name": registered_model, "version": number, "run_id": run_id, "source": f"runs:/{run_id}/model"}
        row |= {"creation_time": time, "last_updated_time": time, "current_stage": "None", "status": "READY"}
        row |= {"description": "", "user_id": None, "storage_location": None, "run_link": None, "status_message": None}
        writer.add(numbers, row)
        for key, value in tags.items():
            tag = {"name": registered_model, "version": number, "key": key, "value": value}
            writer.add(registry_tables.SqlModelVersionTag.__table__, tag)


def move_back(engine: Engine, run_ids: Sequence[str], milliseconds: int) -> None:
    """Let runs have begun and ended earlier."""
    runs = tables.SqlRun.__table__
    earlier = {"start_time": runs.c.start_time - milliseconds, "end_time": runs.c.end_time - milliseconds}
    with engine.begin() as connection:
        connection.execute(runs.update().where(runs.c.run_uuid.in_(run_ids)).values(earlier))


def rows_of(engine: Engine) -> dict[str, int]:
    """Count what is in the database, by the name of the table."""
    counted = (tables.SqlRun, tables.SqlTag, tables.SqlMetric, tables.SqlParam, registry_tables.SqlModelVersion)
    found: dict[str, int] = defaultdict(int)
    with engine.connect() as connection:
        for model in counted:
            table = model.__table__
            found[table.name] = connection.execute(select(sqlalchemy.func.count()).select_from(table)).scalar_one()
    return found
