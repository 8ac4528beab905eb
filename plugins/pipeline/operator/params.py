"""The DAG's form: one Param per parameter of the stages it runs, made from their request models."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from airflow.sdk import Param

from tasks.contract.stage import Stage
from tasks.contract.stages import STAGES, parameters
from tasks.errors import RequestError

LEFT_OUT = "none"  # the value of an optional stage's Param: the DAG run does without it
MACHINE = "Machine"
OBJECT = {"type": "object"}
RESOURCES = (
    'Resource limits of this run\'s stages; they override PIPELINE_RESOURCES: {"train": {"memory": "8g", "gpus": 1}}. '
    "The local runtime sets no limits."
)


def stage_params(
    *stages: str, optional: Mapping[str, str] | None = None, without: Collection[str] = ()
) -> dict[str, Param]:
    """Make the Params of `stages`, by name; a parameter that several stages share appears once.

    The JSON schema checks the values: limits, choices and descriptions come from the request models.

    Args:
        stages: in the order of the form's sections; a shared parameter is in the section of the first.
        optional: those of `stages` that a DAG run may leave out, each with the default of its Param: the choice that
            the stage declares, under the stage's name, or `none`.
        without: parameters to leave out of the form, because the DAG sets them itself.

    Raises:
        RequestError: a name in `without` is not a parameter of these stages, or one in `optional` is no such stage.
    """
    defaults = dict(optional or {})
    for stage in defaults:
        if stage not in stages or not STAGES[stage].choice:
            raise RequestError(f"stage {stage!r} cannot be optional here: it must be in the form and declare a choice")
    params: dict[str, Param] = {}
    shared: dict[str, Param] = {}  # parameters of no single stage: a section of their own, last
    for stage in stages:
        request = STAGES[stage].request
        for name, schema in parameters(request).items():
            if stage in defaults and name == STAGES[stage].choice:
                params[stage] = _choice(STAGES[stage], schema, defaults[stage])
                continue
            of = shared if "section" in schema else params
            of.setdefault(name, _param(schema, request.section))
    params["resources"] = Param({}, description=RESOURCES, type="object", section=MACHINE, additionalProperties=OBJECT)
    params |= shared
    require_known(without, params)
    return {name: param for name, param in params.items() if name not in without}


def asked_of(stage: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a DAG run's Params say about the request of a stage, by field."""
    declared = STAGES[stage]
    asked = {name: params[name] for name in declared.request.model_fields if name in params}
    if declared.choice and stage in params:
        asked[declared.choice] = params[stage]
    return asked


def require_known(asked: Iterable[str] | None, known: Iterable[str]) -> None:
    """Refuse a name, such as a key of a configuration, that is not a Param.

    Raises:
        RequestError: naming the key and the Params with similar names.
    """
    names = sorted(known)
    for key in asked or ():
        if key not in names:
            near = difflib.get_close_matches(key, names)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from: {', '.join(names)}"
            raise RequestError(f"unknown parameter {key!r}; {hint}")


def _choice(stage: Stage, schema: dict[str, Any], default: str) -> Param:
    """Make the Param of an optional stage: named and titled like it, with `none` and the values of its choice."""
    described = f"`{LEFT_OUT}`: without {stage.name}. {schema['description']}"
    changed = {"enum": [LEFT_OUT, *schema["enum"]], "title": stage.name.title(), "default": default}
    return _param({**schema, **changed, "description": described}, stage.request.section)


def _param(schema: dict[str, Any], section: str) -> Param:
    rest = {key: value for key, value in schema.items() if key not in ("default", "description", "anyOf")}
    if "anyOf" in schema:
        # Airflow's form understands `type: [x, "null"]`, not pydantic's `anyOf`, whose one other branch is the value.
        (value,) = (branch for branch in schema["anyOf"] if branch["type"] != "null")
        rest |= {key: of for key, of in value.items() if key != "description"} | {"type": [value["type"], "null"]}
        if "enum" in value:
            rest["enum"] = [*value["enum"], None]
    return Param(schema["default"], description=schema.get("description"), **{"section": section, **rest})
