"""The tasks after any stage that made a model, as every DAG has them, at its top or in a TaskGroup."""

from __future__ import annotations

STAGES = ["evaluate", "register", "deploy"]
ORDER = {
    "evaluate": ["approve", "register"],
    "approve": ["register"],
    "register": ["deploy", "promoted"],
    "promoted": ["deploy"],
    "deploy": [],
}


def in_group(group: str, order: dict[str, list[str]]) -> dict[str, list[str]]:
    """Put tasks, each with those that come directly after it, into a TaskGroup."""
    return {f"{group}.{task}": [f"{group}.{name}" for name in after] for task, after in order.items()}
