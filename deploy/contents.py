"""What a stack holds, so that it can be compared after an upgrade. Standard library only."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.backup_stack import Stack
from deploy.kept_record import KeptRecord

COUNTED = {"mlflow": ("experiments", "runs", "model_versions", "registered_models"), "airflow": ("dag_run",)}
ALIASES = "SELECT name || '@' || alias || ' is version ' || version FROM registered_model_aliases ORDER BY 1"
IN_PROGRESS = "SELECT dag_id || ' ' || run_id FROM dag_run WHERE state IN ('running', 'queued') ORDER BY 1"
SERVED_WITHIN = 900.0  # seconds from the service's start; a version of an earlier release may be exported first


@dataclass(frozen=True)
class Contents(KeptRecord):
    """What a stack holds."""

    rows: dict[str, int]
    """By database and table."""
    aliases: list[str]
    served: str
    """The model in service; empty where there is no service, or it has none."""

    def lost(self, stack: Stack, values: Mapping[str, str]) -> list[str]:
        """Return what a stack no longer has, a line each; wait until the service has its model."""
        deadline = time.monotonic() + SERVED_WITHIN
        while (now := of(stack, values)).served != self.served and self.served and time.monotonic() < deadline:
            time.sleep(1)
        found = [
            f"{table} had {count} rows, and has {now.rows.get(table, 0)}"
            for table, count in self.rows.items()
            if now.rows.get(table, 0) < count
        ]
        found += [f"{alias}: no longer" for alias in self.aliases if alias not in now.aliases]
        if self.served and now.served != self.served:
            found.append(f"the service has {now.served or 'no model'} instead of {self.served}")
        return found


def of(stack: Stack, values: Mapping[str, str]) -> Contents:
    """Return what a stack holds now."""
    rows = {
        f"{database}.{table}": int(stack.sql('SELECT count(*) FROM :"name"', database, name=table))
        for database, tables in COUNTED.items()
        for table in tables
        if _has(stack, database, table)
    }
    aliases = stack.sql(ALIASES, "mlflow").splitlines() if _has(stack, "mlflow", "registered_model_aliases") else []
    return Contents(rows, aliases, _served(values))


def runs_in_progress(stack: Stack) -> list[str]:
    """Return the DAG runs that are in progress, as DAG and run."""
    return stack.sql(IN_PROGRESS, "airflow").splitlines() if _has(stack, "airflow", "dag_run") else []


def _has(stack: Stack, database: str, table: str) -> bool:
    return stack.sql("SELECT to_regclass(:'name') IS NOT NULL", database, name=table) == "t"


def _served(values: Mapping[str, str]) -> str:
    """Ask the service for its model."""
    url = f"http://127.0.0.1:{values.get('SERVING_PORT') or 3000}/get_model_info"
    headers = {"X-API-Key": values["SERVING_API_KEY"]} if values.get("SERVING_API_KEY") else {}
    request = urllib.request.Request(url, data=b"", method="POST", headers=headers)  # this machine
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            told = json.load(answer)
    except (OSError, ValueError):
        return ""
    model = told.get("model_version")
    return f"{told.get('registered_model', 'model')} version {model}" if model else ""
