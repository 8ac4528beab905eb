"""Runs of the real DAGs under the administrators' rules: what Airflow starts, asks and passes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.dags.forked import Forks

MODELS = {
    "vision-classifier": {"gate": {"min_accuracy": 0.9}},
    "asked": {"approval": {"by": ["dag_test", "bob"]}},  # Airflow's name for who starts a run in a test
}
RULES = {"source": "policies.yaml", "models": MODELS, "resources": {"train": {"gpus": 1}}}
VARIABLES = {"PIPELINE_POLICIES": json.dumps(RULES)}
CONFS = {
    '{"min_accuracy": 0.95}': "",
    '{"min_accuracy": 0.95, "registered_model": "dogs"}': "",
    '{"min_accuracy": 0.4}': "RequestError: min_accuracy=0.4 asks for less than the floor of 'vision-classifier' in "
    "policies.yaml (vision-classifier), min_accuracy=0.9; leave it out, or give 0.9",
    '{"min_accuracy": 0.4, "registered_model": "dogs"}': "",
    '{"resources": {"train": {"gpus": 2}}}': "SettingsError: resources of train: gpus=2 is more than policies.yaml "
    "allows, 1; ask for that or less",
    '{"registered_model": "asked"}': "RequestError: registered_model='asked' needs an approval (policies.yaml "
    "(asked)), and Airflow does not know who runs this command; trigger the DAG in Airflow: make ui, or the stack",
}
CHECK = """
import json, sys
from pipeline.command.conf import check_conf, parse_conf
from pipeline.command.run import find_dag
from tasks.errors import PipelineError
dag, said = find_dag("daily_training"), []
for text in json.loads(sys.argv[1]):
    try:
        check_conf(dag, parse_conf(text))
        said.append("")
    except PipelineError as error:
        said.append(f"{type(error).__name__}: {error}")
print("\\n" + json.dumps(said))
"""


@pytest.fixture(scope="module")
def runs(run_scenarios: Callable[..., dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    given = {"stub": {}, "variables": VARIABLES}
    return run_scenarios(
        {
            "laxer": given | {"conf": {"min_accuracy": 0.4}},
            "over a ceiling": given | {"conf": {"resources": {"train": {"gpus": 2}}}},
            "default": given,
            "approved": given
            | {
                "conf": {"registered_model": "asked", "require_approval": False},
                "answers": [["dag_test", "Approve"], ["carl", "Approve"], ["bob", "Approve"]],
            },
        }
    )


@pytest.mark.parametrize("name", ["laxer", "over a ceiling"])
def test_a_run_against_the_rules_fails_before_any_stage_starts(runs: dict[str, dict[str, Any]], name: str) -> None:
    run = runs[name]
    assert (run["state"], run["tasks"]["prepare"], run["calls"]) == ("failed", ["failed", 1], [])


def test_a_run_that_leaves_its_limits_open_is_judged_by_the_floors(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["default"]
    requests = dict(run["calls"])
    assert (run["state"], requests["evaluate"]["min_accuracy"]) == ("success", 0.9)
    assert requests["register"]["require_approval"] is False


def test_who_started_a_run_and_who_may_not_approve_it_are_asked_in_vain(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["approved"]
    assert (run["state"], run["tasks"]["approve"]) == ("success", ["success", 1])
    register = dict(run["calls"])["register"]
    assert register["require_approval"] is True
    assert {name: register["approval"][name] for name in ("approved", "by", "comment")} == {
        "approved": True, "by": "bob", "comment": "seen"
    }  # fmt: skip
    assert register["approval"]["evidence"] == hashlib.sha256(b"| check |").hexdigest()
    assert register["task"]["user"] == "dag_test"


@pytest.fixture(scope="module")
def said(forks: Forks) -> dict[str, str]:
    done = forks.run(CHECK, json.dumps(list(CONFS)), variables=forks.variables | VARIABLES)
    assert done.returncode == 0, done.stderr
    return dict(zip(CONFS, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("conf", CONFS)
def test_make_run_obeys_the_rules_before_anything_starts(said: dict[str, str], conf: str) -> None:
    assert said[conf] == CONFS[conf]


def test_rules_that_cannot_be_read_break_the_dag_file_with_their_line(forks: Forks) -> None:
    find = "from pipeline.command.run import find_dag; find_dag('daily_training')"
    done = forks.run(find, variables=forks.variables | {"PIPELINE_POLICIES": '{"modles": {}}'})
    assert done.returncode == 1
    assert "PIPELINE_POLICIES, line 1: modles: unknown key; did you mean 'models'?" in done.stderr.splitlines()[-1]
