"""Checks the configuration of a DAG run before it starts.

Airflow ignores unknown keys and reports a wrong value with a page of traceback; here both are errors of one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from pipeline.operator.params import require_known
from pipeline.operator.stage_operator import check_stages
from tasks.contract.policies_file import rules_for
from tasks.errors import RequestError
from tasks.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import DAG

EXAMPLE = """write CONF='{"dataset": "digits"}'"""


def parse_conf(text: str, given: Iterable[str] = ()) -> dict[str, Any]:
    """Read a configuration, a JSON object, and override it by each NAME=VALUE in `given`.

    Raises:
        RequestError: it is not a JSON object, or one of `given` is not NAME=VALUE.
    """
    try:
        conf = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise RequestError(f"{text[:80]!r} is not JSON ({error}); {EXAMPLE}") from error
    if not isinstance(conf, dict):
        raise RequestError(f"{text[:80]!r} is not a JSON object; {EXAMPLE}")
    return conf | dict(_pair(one) for one in given)


def check_conf(dag: DAG, conf: Mapping[str, Any]) -> None:
    """Check a DAG run's configuration against the DAG's Params and the requests of all its stages.

    Raises:
        RequestError: one line with the key, its value and the allowed values; or a rule asks for an approval, which
            needs a run that Airflow has started for a person.
    """
    require_known(conf, dag.params)
    for name, value in conf.items():
        for problem in Draft202012Validator(dag.params.get_param(name).schema).iter_errors(value):
            raise RequestError(f"{name}={value!r}: {problem.message}")
    params = {**dag.params.dump(), **conf}
    check_stages(dag, params)
    if "require_approval" in params:
        rules = rules_for(params["registered_model"], load_settings())
        if rules and rules.approval_required:
            raise RequestError(
                f"registered_model={params['registered_model']!r} needs an approval ({rules.source}), and Airflow does "
                "not know who runs this command; trigger the DAG in Airflow: make ui, or the stack"
            )


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise RequestError(f"{text!r} is not NAME=VALUE; write trials=20")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value  # a plain word: the shell has removed quotes around it
