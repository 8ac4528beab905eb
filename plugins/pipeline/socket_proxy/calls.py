"""The calls that `pipeline.docker` makes: method, path and query of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from pipeline.socket_proxy.refusal import Refused, shown

RESULT_PATH = "/airflow/xcom/return.json"
# API versions from 1.40 on: earlier ones read other fields, and took a container's settings at its start.
VERSIONED = re.compile(r"(?P<version>/v1\.(?:4[0-9]|[5-9][0-9]))?(?P<path>/.*)")
CONTAINER = r"/containers/(?P<container>[0-9a-f]{64})"


@dataclass(frozen=True)
class Allowed:
    """What this installation's operator works with."""

    images: Mapping[str, str]  # of each stage
    network: str
    roots: tuple[str, ...]  # folders of the engine's machine that a stage may read


Value = Callable[[str, Allowed], str]  # checks a value of a query, and returns it as the engine gets it


def _matching(pattern: str) -> Value:
    def check(value: str, allowed: Allowed) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise Refused(f"value {shown(value)} is not accepted")
        return value

    return check


def _flag(value: str, allowed: Allowed) -> str:
    flags = {"1": "1", "true": "1", "0": "0", "false": "0"}
    if value.lower() not in flags:
        raise Refused(f"value {shown(value)} is not true or false")
    return flags[value.lower()]


def _filters(value: str, allowed: Allowed) -> str:
    """Let stages' containers on the stages' network be listed, no others."""
    found = json_object(value)
    labels = found.get("label")
    key = labels[0] if isinstance(labels, list) and len(labels) == 1 else None
    if not isinstance(key, str) or not key.startswith("pipeline.key=") or key == "pipeline.key=":
        raise Refused("value must have one label, pipeline.key=KEY")
    filters = {"label": [key], "network": [allowed.network]}
    if found != filters:
        raise Refused(f"value must have one label and the network {allowed.network}, and nothing else")
    return json.dumps(filters)


@dataclass(frozen=True)
class Call:
    """A call: which requests are it, and what its query may say."""

    method: str
    pattern: str
    query: Mapping[str, Value] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    creates: bool = False


CALLS = (
    Call("GET", "/_ping"),
    Call("GET", "/version"),
    Call("GET", "/images/(?P<image>.+)/json"),
    Call(
        "GET",
        "/containers/json",
        {
            "all": _flag,
            "limit": _matching("-1"),
            "size": _matching("0"),
            "trunc_cmd": _matching("0"),
            "filters": _filters,
        },
        frozenset({"filters"}),
    ),
    Call(
        "POST",
        "/containers/create",
        # The name ends like the operator's, so that no stage takes the name of a service on the network.
        {"name": _matching(r"[a-zA-Z0-9][\w.-]{0,60}-[a-z]+-[0-9a-f]{12}")},
        frozenset({"name"}),
        creates=True,
    ),
    Call("POST", f"{CONTAINER}/start"),
    Call(
        "GET",
        f"{CONTAINER}/logs",
        {
            **dict.fromkeys(("stdout", "stderr", "timestamps", "follow"), _flag),
            "tail": _matching("all"),
            "since": _matching(r"[0-9]{1,12}"),
        },
    ),
    Call("GET", f"{CONTAINER}/json"),
    Call("GET", f"{CONTAINER}/archive", {"path": _matching(re.escape(RESULT_PATH))}, frozenset({"path"})),
    Call("POST", f"{CONTAINER}/stop", {"t": _matching("[0-9]{1,4}")}),
    Call("DELETE", CONTAINER, {"v": _flag, "force": _flag, "link": _matching("[Ff]alse|0")}),
)


@dataclass(frozen=True)
class Match:
    """A request that is one of the calls, written anew."""

    call: Call
    target: str
    parameters: Mapping[str, str]
    container: str | None


def match(method: str, target: str, allowed: Allowed) -> Match:
    """Find the call that a request is.

    Raises:
        Refused: it is none, or its path or query is not one of that call's.
    """
    path, asked, query = target.partition("?")
    split = VERSIONED.fullmatch(path)
    if split is None:
        raise Refused(f"{method} {shown(path)} is not a call that the operator makes")
    plain = split["path"].replace("%40", "@")  # Docker's client writes the `@` of a digest so; no call has another %
    for call in CALLS:
        found = re.fullmatch(call.pattern, plain) if method == call.method else None
        if found is None:
            continue
        named = found.groupdict()
        if "image" in named and named["image"] not in allowed.images.values():
            raise Refused(f"image {shown(named['image'])} is not the image of a stage")
        parameters = _query(call, query, allowed) if asked else _complete(call, {})
        written = (split["version"] or "") + plain.replace("@", "%40")
        written += f"?{urlencode(parameters)}" if parameters else ""
        return Match(call, written, parameters, named.get("container"))
    raise Refused(f"{method} {shown(plain)} is not a call that the operator makes")


def _query(call: Call, query: str, allowed: Allowed) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise Refused(f"query {shown(query)} cannot be read") from None
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in call.query or name in parameters:
            raise Refused(f"query: {shown(name)} is not accepted here, or there twice")
        try:
            parameters[name] = call.query[name](value, allowed)
        except Refused as refused:
            raise Refused(f"query: {name}: {refused}") from None
    return _complete(call, parameters)


def _complete(call: Call, parameters: dict[str, str]) -> dict[str, str]:
    if missing := call.required - parameters.keys():
        raise Refused(f"query: {min(missing)} is missing")
    return parameters


def json_object(text: str | bytes) -> dict[str, Any]:
    """Read a JSON object in which no name is there twice, not even in another spelling.

    Raises:
        Refused: it is not one.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Docker's reader takes `privileged` for `Privileged`, and the last one of two.
        names = [name.casefold() for name, _ in pairs]
        if len(set(names)) != len(names):
            raise Refused("JSON: a name is there twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise Refused(f"JSON: {constant} is not a value")

    try:
        found = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Refused("not JSON") from None
    if not isinstance(found, dict):
        raise Refused("JSON: not an object")
    return found
