"""How many of Postgres' connections MLflow takes, however many clients there are, and what clients then see."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import requests

from tests.waiting import until

from .conftest import Stack

pytestmark = pytest.mark.docker
CLIENTS = 60
OF_ONE_POOL = 5  # images/mlflow/start.py
POOLS = 3  # tracking, registry, users
SEARCH = "/api/2.0/mlflow/runs/search"
USED = "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('mlflow', 'mlflow_auth') AND pid <> pg_backend_pid()"


def ask(session: requests.Session, url: str, number: int) -> int:
    """One of three requests; returns the status."""
    if number % 3 == 0:
        answer = session.post(url + SEARCH, json={"experiment_ids": ["0"], "max_results": 50}, timeout=600)
    elif number % 3 == 1:
        answer = session.get(f"{url}/api/2.0/mlflow/registered-models/search?max_results=10", timeout=600)
    else:
        answer = session.post(f"{url}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}, timeout=600)
    return answer.status_code


def test_mlflow_takes_no_more_connections_than_its_pools_have_and_refuses_nobody(stack: Stack) -> None:
    numbers, ended, statuses = count(), threading.Event(), Counter[int]()

    def client(_: int) -> None:
        with requests.Session() as session:
            session.auth = stack.login
            while not ended.is_set():
                statuses[ask(session, stack.mlflow_url, next(numbers))] += 1

    with ThreadPoolExecutor(CLIENTS) as clients:
        running = clients.map(client, range(CLIENTS))
        try:
            used = []
            end = time.monotonic() + 10
            while time.monotonic() < end or sum(statuses.values()) < CLIENTS:
                used.append(int(stack.psql("mlflow", "mlflow", USED).stdout))
        finally:
            ended.set()
        list(running)
    assert set(statuses) == {200}, statuses
    # This stack's MLflow has one worker, and the process that started it keeps one connection of each pool.
    assert OF_ONE_POOL < max(used) <= POOLS * OF_ONE_POOL + POOLS


@pytest.mark.long
def test_a_request_that_gets_no_connection_is_to_be_tried_again(stack: Stack) -> None:
    """Requests that wait for a lock hold the connections; SQLAlchemy waits 30 s for one of them."""
    postgres = f"{stack.variables['STACK_NAME']}-postgres-1"
    command = ["docker", "exec", "--interactive", postgres, "psql", "-qAt", "-U", "postgres", "-d", "mlflow"]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'mlflow'"
    given = {"json": {"experiment_ids": ["0"], "max_results": 5}, "auth": stack.login, "timeout": 600}
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as session, ThreadPoolExecutor(12) as clients:
        assert session.stdin
        session.stdin.write("BEGIN; LOCK TABLE runs;\n")
        session.stdin.flush()
        until(lambda: "AccessExclusiveLock" in stack.psql("mlflow", "mlflow", "SELECT mode FROM pg_locks").stdout)
        answers = [clients.submit(requests.post, stack.mlflow_url + SEARCH, **given) for _ in range(12)]
        until(lambda: int(stack.psql("mlflow", "mlflow", waiting).stdout) == OF_ONE_POOL)
        until(lambda: sum(answer.done() for answer in answers) == 12 - OF_ONE_POOL)
        refused = [answer.result() for answer in answers if answer.done()]
        session.stdin.write("ROLLBACK;\n")
        session.stdin.close()
        statuses = Counter(answer.result().status_code for answer in answers)
    assert statuses == {503: 12 - OF_ONE_POOL, 200: OF_ONE_POOL}
    assert {answer.json()["message"] for answer in refused} == {"every connection to the database is in use; try again"}
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
