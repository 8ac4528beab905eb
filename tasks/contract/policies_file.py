"""Reads `policies.yaml`, whose rules are in `tasks.contract.policies`.

A mistake in it is an error that names the line and the fix: it must never mean that there are no rules.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tasks.contract.ceilings import Ceilings
from tasks.contract.gate_policy import GatePolicy
from tasks.contract.policies import ApprovalRule, ModelRules, Policies, Rules
from tasks.errors import SettingsError
from tasks.settings import Settings

VARIABLE = "PIPELINE_POLICIES"
LIMIT = 64 * 1024  # bytes: the rules of a stage in a container are one variable of its environment
KEYS = sorted(
    {name for model in (Policies, ModelRules, ApprovalRule, GatePolicy, Ceilings) for name in model.model_fields}
)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML without tags. A key that is there twice would count once, and one without a value would set no limit."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), _line(key)
            if name in lines:
                raise yaml.YAMLError(f"line {line}: key {name!r} is also in line {lines[name]}; remove one of them")
            if value.tag == "tag:yaml.org,2002:null":
                raise yaml.YAMLError(f"line {line}: {name!r} has no value; give it one, or remove it")
            lines[name] = line
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made


def load_policies(settings: Settings) -> Policies | None:
    """Read the administrators' rules; None where PIPELINE_POLICIES is not set.

    Raises:
        SettingsError: the file cannot be read, or something in it is wrong; names the line and the fix.
    """
    given = settings.pipeline_policies
    if given is None:
        return None
    if given.lstrip().startswith("{"):
        return parse_policies(given, VARIABLE)
    try:
        return parse_policies(Path(given).read_text(encoding="utf-8"), given)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"{VARIABLE}={given!r} cannot be read ({reason}); correct the path, or unset it") from error


def rules_for(registered_model: str, settings: Settings) -> Rules | None:
    """Return the rules for a registered model; None if there are none.

    Raises:
        SettingsError: as `load_policies`; or two rules cannot hold together.
    """
    policies = load_policies(settings)
    return policies.rules_for(registered_model) if policies else None


def for_stage(policies: Policies) -> str:
    """Write the rules as JSON of one line: the value of PIPELINE_POLICIES of a stage in a container."""
    return policies.model_dump_json(exclude_unset=True)


@lru_cache(maxsize=8)  # a DAG file asks dozens of times
def parse_policies(text: str, source: str) -> Policies:
    """Read rules, YAML or JSON.

    Args:
        text: the content of the file.
        source: where it is from, for messages; the text may name another place.

    Raises:
        SettingsError: naming the line and the fix.
    """
    if len(text.encode()) > LIMIT:
        raise SettingsError(f"{source}: {len(text.encode())} bytes; the limit is {LIMIT}")
    try:
        loader = _Loader(text)
        tree = loader.get_single_node()
        given = loader.construct_document(tree) if tree else None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SettingsError(f"{source}, {where}not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{source}, {error}") from error
    if not isinstance(given, dict):
        raise SettingsError(f"{source}: write the keys models and resources; this is {type(given).__name__}, no rules")
    try:
        # As JSON, because only there strict validation takes a list for a tuple. A date is no JSON, and becomes text.
        strict = json.dumps({"source": Path(source).name, **given}, default=str)
        return Policies.model_validate_json(strict, strict=True)
    except ValidationError as error:
        wrong = "; ".join(_sentence(dict(one), tree) for one in error.errors())
        raise SettingsError(f"{source}, {wrong}") from error


def _sentence(error: dict[str, Any], tree: yaml.Node) -> str:
    """Turn one pydantic error into `line: key=value: the fix`."""
    path = [str(part) for part in error["loc"] if part != "[key]"]
    *_, node = _nodes(tree, path)
    name, text = ".".join(path), str(error["msg"]).removeprefix("Value error, ")
    where = f"line {_line(node)}: "
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], [key for key in KEYS if key != path[-1]], 1)
        return f"{where}{name}: unknown key; {f'did you mean {near[0]!r}?' if near else 'remove it'}"
    if "[key]" in error["loc"]:
        return (
            f"{where}{name}: neither the name of a registered model nor a pattern; use letters, digits, dots, dashes, "
            "underscores, and * for anything"
        )
    value = "" if isinstance(error["input"], dict | BaseModel) else f"={error['input']!r}"
    return f"{where}{name}{value}: {text}" if name else f"{where}{text}"


def _nodes(node: yaml.Node, path: list[str]) -> Iterator[yaml.Node]:
    """Walk along a path of keys and indices as far as it goes; of a key it is the key itself that is yielded."""
    yield node
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == part), None)
            if pair is None:
                return
            yield pair[0]
            node = pair[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            yield node
        else:
            return


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
