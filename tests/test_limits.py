"""No question to what may grow has a silent limit: each call is in the table of docs/reliability.md, each limit said.

A call that takes a limit, or has one unless it is told otherwise, needs a comment `# limit: why` on or above it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("dags", "deploy", "images", "plugins", "tasks")
# Answers in pages: whoever calls one of these and does not read on has only the first.
PAGED = {"search_runs", "search_model_versions", "search_registered_models", "search_logged_models"}
PAGED |= {"search_experiments", "search_traces", "list_objects", "list_objects_v2", "list_object_versions"}
PAGED |= {"list_multipart_uploads", "get_metric_history_bulk"}
# These answer with all: MLflow's client, boto3's paginators, Arrow and Kubernetes' API read every page.
WHOLE = {"get_metric_history", "list_artifacts", "get_latest_versions", "get_paginator", "FileSelector"}
WHOLE |= {"list_namespaced_pod", "list_namespaced_event"}
OURS = {"newest_run", "find_runs", "all_runs", "find_versions", "first_version", "newest_version_of_run"}
OURS |= {"logged_models", "all_pages"}
LIMITS = {"max_results", "limit", "page_size", "MaxKeys", "PaginationConfig"}
ROW = re.compile(r"^\| `(?P<file>[\w/]+\.py)` `(?P<function>\w+)` \|", re.M)


class Calls(ast.NodeVisitor):
    """Finds the calls in a module that ask for many things, with the top-level function that they are in."""

    def __init__(self) -> None:
        self.found: list[tuple[str, ast.Call]] = []
        self.addresses: list[tuple[str, ast.Constant]] = []
        """Addresses that name a limit."""
        self._function = "module"

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._function = self._function, node.name if self._function == "module" else self._function
        self.generic_visit(node)
        self._function = outer

    def visit_Call(self, node: ast.Call) -> None:
        if _name(node) in PAGED | WHOLE | OURS:
            self.found.append((self._function, node))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and re.search(r"[?&](max_results|limit|page_size)=", node.value):
            self.addresses.append((self._function, node))


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _parsed(text: str) -> Calls:
    calls = Calls()
    calls.visit(ast.parse(text))
    return calls


def _calls(text: str) -> list[tuple[str, ast.Call]]:
    return _parsed(text).found


def _silent(text: str) -> Iterator[str]:
    """Say which calls have a limit without a reason."""
    lines, parsed = ["", *text.splitlines()], _parsed(text)
    limited = [
        (function, node)
        for function, node in parsed.found
        if _name(node) in PAGED or {keyword.arg for keyword in node.keywords} & LIMITS
    ]
    for function, node in (*limited, *parsed.addresses):
        around = lines[node.lineno - 1 : (node.end_lineno or node.lineno) + 1]
        if not any(re.search(r"# limit: \w+", line) for line in around):
            yield f"{function}: line {node.lineno}"


def sources() -> list[Path]:
    return [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]


ASKING = [path for path in sources() if any([(parsed := _parsed(path.read_text())).found, parsed.addresses])]


@pytest.mark.parametrize("path", ASKING, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_limit_says_why(path: Path) -> None:
    assert list(_silent(path.read_text())) == []


def test_every_call_is_in_the_table_of_the_docs() -> None:
    called = {(str(p.relative_to(ROOT)), function) for p in sources() for function, _ in _calls(p.read_text())}
    listed = [(row["file"], row["function"]) for row in ROW.finditer((ROOT / "docs/reliability.md").read_text())]
    assert sorted(listed) == sorted(called)


@pytest.mark.parametrize(
    "call",
    [
        "client.search_runs([experiment])",
        "client.search_runs([experiment], max_results=1000)",
        "s3.list_objects_v2(Bucket='b')",
        "queries.find_runs(experiment, {}, limit=20)",
        "client.search_model_versions(\n    text,\n)",
        "get('/api/2.0/mlflow/experiments/search?max_results=1')",
    ],
)
def test_a_silent_limit_is_found(call: str) -> None:
    assert list(_silent(f"def ask():\n    return {call}\n")) != []
    assert list(_silent(f"def ask():\n    # limit: one is the answer\n    return {call}\n")) == []


def test_what_reads_all_needs_no_reason() -> None:
    assert list(_silent("def ask():\n    return list(queries.all_runs(experiment, {}))\n")) == []
