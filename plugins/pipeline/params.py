"""The DAG's form: one Param per parameter of the stages it runs, made from their request models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import Param

from tasks.contract import STAGES, parameters
from tasks.errors import RequestError


def stage_params(*stages: str) -> dict[str, Param]:
    """Make the Params of `stages`, by name; a parameter that several stages share is asked for once.

    The JSON schema does the checking: limits and choices come from the request models, and so does the text.
    """
    params: dict[str, Param] = {}
    for stage in stages:
        request = STAGES[stage].request
        for name, schema in parameters(request).items():
            params.setdefault(name, _param(schema, request.section))
    return params


def require_known(conf: Mapping[str, Any] | None, known: Iterable[str]) -> None:
    """Refuse a configuration key that names no Param.

    Raises:
        RequestError: naming the key and the Params that look like it.
    """
    names = sorted(known)
    for key in conf or {}:
        if key not in names:
            near = difflib.get_close_matches(key, names)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from: {', '.join(names)}"
            raise RequestError(f"unknown parameter {key!r}; {hint}")


def _param(schema: dict[str, Any], section: str) -> Param:
    rest = {key: value for key, value in schema.items() if key not in ("default", "description", "anyOf")}
    if "anyOf" in schema:
        # Airflow's form knows `type: [x, "null"]`, not pydantic's `anyOf`: an optional value has one other branch.
        (value,) = (branch for branch in schema["anyOf"] if branch["type"] != "null")
        rest |= {key: of for key, of in value.items() if key != "description"} | {"type": [value["type"], "null"]}
        if "enum" in value:
            rest["enum"] = [*value["enum"], None]
    return Param(schema["default"], description=schema.get("description"), section=section, **rest)
