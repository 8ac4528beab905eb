"""What holds of every DAG file, whatever it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.stages import STAGES, parameters
from tests.dags.forked import Forks

Parse = Callable[..., dict[str, Any]]
DAGS = sorted(file.stem for file in (Path(__file__).resolve().parents[2] / "dags").glob("*.py"))
WEEK = 7 * 24 * 3600


@pytest.mark.parametrize("runtime", ["local", "docker"])
@pytest.mark.parametrize("dag", DAGS)
def test_each_dag_file_parses_within_a_second_without_torch_and_mlflow(parse: Parse, dag: str, runtime: str) -> None:
    server = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "v3ry-l0ng",
    }
    found = parse(dag, **server, PIPELINE_RUNTIME=runtime)
    if found["seconds"] >= 1:  # a busy machine makes CPU time longer, too
        found = parse(dag, **server, PIPELINE_RUNTIME=runtime)
    assert found["errors"] == []
    assert found["dags"] == [dag]
    assert found["banned"] == []
    assert found["seconds"] < 1, found


def test_only_the_plugin_module_is_loaded_as_a_plugin(parse: Parse) -> None:
    parsed = parse("daily_training")
    assert "vision_mlops" in parsed["plugins"]
    assert parsed["bare"] == []


@pytest.mark.parametrize(
    ("dag", "schedule", "longest"),
    [
        ("daily_training", "@daily", WEEK),
        ("weekly_tuning", "@weekly", WEEK - 1),  # it ends before the next one
        ("weekly_compression", "0 12 * * 0", WEEK - 1),  # when the trainings of that night are over
        ("rollback_champion", "None", WEEK),
        ("weekly_maintenance", "0 6 * * 6", WEEK - 1),
        ("batch_predict", "None", WEEK),
    ],
)
def test_the_schedule_is_fixed(parse: Parse, dag: str, schedule: str, longest: int) -> None:
    facts = parse(dag)["facts"]
    assert (facts["catchup"], facts["schedule"]) == (False, schedule)
    assert (facts["start"], facts["timezone"]) == ("2026-01-01 00:00:00+00:00", "UTC")
    assert facts["timeout"] <= longest
    assert facts["doc"]
    assert facts["tags"]


@pytest.mark.parametrize(
    "dag", ["batch_predict", "daily_training", "weekly_compression", "weekly_maintenance", "weekly_tuning"]
)
def test_each_task_is_retried_with_back_off_and_ends_in_time(parse: Parse, dag: str) -> None:
    facts = parse(dag)["facts"]
    for task, (_, retries, back_off, timeout) in facts["tasks"].items():
        assert (retries >= 1, back_off) == (True, True), task
        assert 0 < timeout < facts["timeout"], task


@pytest.mark.parametrize(
    ("dag", "tasks"),
    [
        ("daily_training", ["deploy", "compression.deploy"]),
        ("weekly_tuning", ["deploy"]),
        ("weekly_compression", ["deploy"]),
        ("rollback_champion", ["deploy"]),
    ],
)
def test_the_deploy_task_outlasts_the_longest_wait_that_may_be_asked_for(
    parse: Parse, dag: str, tasks: list[str]
) -> None:
    longest = parameters(STAGES["deploy"].request)["deploy_timeout"]["maximum"]
    facts = parse(dag)["facts"]
    assert [facts["tasks"][task][3] > longest for task in tasks] == [True] * len(tasks)


@pytest.mark.parametrize(
    ("dag", "tasks"),
    [
        ("daily_training", ["register", "compression.register"]),
        ("weekly_tuning", ["register"]),
        ("weekly_compression", ["register"]),
        ("rollback_champion", ["rollback"]),
        ("weekly_maintenance", ["clean"]),  # no weights go that a promotion is about to need
    ],
)
def test_what_moves_the_champion_shares_one_pool(parse: Parse, dag: str, tasks: list[str]) -> None:
    pools = parse(dag)["facts"]["pools"]
    assert {name for name, pool in pools.items() if pool == "champion"} == set(tasks)
    assert {pool for name, pool in pools.items() if name not in tasks} == {"default_pool"}


def test_the_pool_has_one_slot_again_whatever_somebody_made_of_it(forks: Forks) -> None:
    code = """
from airflow.models.pool import Pool
from pipeline.dag_parts.pool import CHAMPION, make_pools
make_pools()
Pool.create_or_update_pool(CHAMPION, slots=7, description="", include_deferred=False)
make_pools()
print(Pool.get_pool(CHAMPION).slots)
"""
    done = forks.run(code)
    assert done.stdout.splitlines()[-1] == "1", done.stderr
