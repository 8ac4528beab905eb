from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import IO

import pytest

from deploy import contents
from deploy.backup_stack import Stack
from deploy.contents import Contents

BEFORE = Contents({"mlflow.runs": 7, "airflow.dag_run": 3}, ["digits@champion is version 2"], "digits version 2")


class Holding(Stack):
    """A stack whose tables have these rows."""

    save_target = restore_target = "make x"

    def __init__(self, rows: dict[str, int], aliases: list[str]) -> None:
        self.rows, self.aliases = rows, aliases

    def require_running(self) -> None:
        raise AssertionError

    def postgres(
        self, command: str, *, user: str = "", stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        raise AssertionError

    def bucket(self, action: str) -> list[str]:
        raise AssertionError

    def stopped(self) -> Iterator[None]:  # type: ignore[override]
        raise AssertionError

    def sql(self, statement: str, database: str = "postgres", **variables: str) -> str:
        table = f"{database}.{variables.get('name', 'registered_model_aliases')}"
        if "to_regclass" in statement:
            return "t" if table in self.rows or table == "mlflow.registered_model_aliases" else "f"
        return str(self.rows[table]) if "count" in statement else "\n".join(self.aliases)


@pytest.fixture
def service() -> Iterator[dict[str, object]]:
    """A service; what is in the dictionary, it answers."""
    told: dict[str, object] = {"registered_model": "digits", "model_version": 2}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            known = self.headers["X-API-Key"] == "key" and self.path == "/get_model_info"
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(json.dumps(told.pop("at_first", told)).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        told["port"] = server.server_port
        yield told
        server.shutdown()


def values(service: dict[str, object]) -> dict[str, str]:
    return {"SERVING_PORT": str(service["port"]), "SERVING_API_KEY": "key"}


def test_what_a_stack_holds(service: dict[str, object], tmp_path: Path) -> None:
    found = contents.of(Holding(BEFORE.rows, BEFORE.aliases), values(service))
    assert found == BEFORE
    found.write(tmp_path / "file")
    assert Contents.read(tmp_path / "file") == BEFORE
    assert contents.of(Holding({}, []), {"SERVING_PORT": "1"}) == Contents({}, [], "")


def test_more_than_before_is_no_loss(service: dict[str, object]) -> None:
    more = Holding(
        {"mlflow.runs": 9, "airflow.dag_run": 3, "mlflow.experiments": 1}, ["new@a is version 1", *BEFORE.aliases]
    )
    assert BEFORE.lost(more, values(service)) == []


def test_every_loss_is_named(service: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SERVED_WITHIN", 0.0)
    service["model_version"] = 1
    assert BEFORE.lost(Holding({"mlflow.runs": 6}, ["digits@champion is version 1"]), values(service)) == [
        "mlflow.runs had 7 rows, and has 6",
        "airflow.dag_run had 3 rows, and has 0",
        "digits@champion is version 2: no longer",
        "the service has digits version 1 instead of digits version 2",
    ]
    service["model_version"] = None
    without = replace(BEFORE, rows={}, aliases=[])
    assert without.lost(Holding({}, []), values(service)) == ["the service has no model instead of digits version 2"]


def test_the_service_may_take_a_while(service: dict[str, object]) -> None:
    service["at_first"] = {"registered_model": "digits", "model_version": None}
    assert BEFORE.lost(Holding(BEFORE.rows, BEFORE.aliases), values(service)) == []
