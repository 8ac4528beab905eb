"""A steady stream of requests while the champion changes again and again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise

import numpy as np
import pytest
import requests
import torch

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import RollbackRequest
from tasks.records import ledger
from tasks.records.tracking import stage_run
from tasks.stages import rollback
from tests.tasks.serving.samples import (
    CLASSES,
    MODEL,
    Brightness,
    Service,
    Store,
    log_reference_predictions,
    move,
    picture,
)  # fmt: skip
from tests.waiting import until

MOVES = 10
GREYS = (0, 64, 128, 200, 255)
ORDERS = {1: [0, 1, 2], 2: [2, 1, 0]}  # of the classes, by version; see conftest.py


def known(version: int, grey: int) -> list[float]:
    """What this version answers for a grey square, from the module itself."""
    pixels = torch.from_numpy(np.full((1, 1, 8, 8), grey, np.uint8))
    return [float(value) for value in Brightness(ORDERS[version])(pixels)[0]]


def roll_back(store: Store, day: int) -> int:
    task = TaskIdentity(dag_id="rollback_champion", dag_run_id=f"test-{day}-{time.time_ns()}", task_id="rollback")
    request = RollbackRequest(task=task, registered_model=MODEL, reason="a test", version=1)
    with stage_run(request, "rollback", store.settings) as run:
        return rollback.run(request, run, store.settings).version


# Requests a second. A machine with other work to do may not reach the higher one.
@pytest.mark.parametrize("rate", [50, pytest.param(300, marks=pytest.mark.long)])
def test_a_stream_of_requests_through_promotions_and_rollbacks(service: Service, store: Store, rate: int) -> None:
    log_reference_predictions(1)
    log_reference_predictions(2)
    move(ledger.Kind.PROMOTION, None, 1)
    sessions = threading.local()

    def ask(grey: int) -> tuple[int, int, dict[str, object]]:
        if not hasattr(sessions, "own"):
            sessions.own = requests.Session()
        answer = sessions.own.post(f"{service.url}/predict_image", files={"image": picture(grey)}, timeout=120)
        return answer.status_code, grey, answer.json()

    asked: list[Future[tuple[int, int, dict[str, object]]]] = []
    done = threading.Event()

    def stream(pool: ThreadPoolExecutor) -> None:
        began = time.monotonic()
        while not done.wait(max(0.0, began + len(asked) / rate - time.monotonic())):
            asked.append(pool.submit(ask, GREYS[len(asked) % len(GREYS)]))

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        streaming = threading.Thread(target=stream, args=(pool,))
        streaming.start()
        try:
            for number in range(MOVES):
                if number % 2:
                    version = roll_back(store, number)
                else:
                    move(ledger.Kind.PROMOTION, 1, version := 2)
                service.post("refresh")
                until(lambda: service.info().get("model_version") == version)  # noqa: B023
        finally:
            seconds = time.monotonic() - began
            done.set()
            streaming.join()
    answers = [future.result() for future in asked]

    assert len(answers) >= rate * seconds * 0.9
    assert {status for status, _, _ in answers} == {200}
    expected = {(version, grey): known(version, grey) for version in ORDERS for grey in GREYS}
    for _, grey, answer in answers:
        version = answer["model_version"]
        assert isinstance(version, int)
        assert answer["run_id"] == store.run_ids[version - 1]
        probabilities = answer["probabilities"]
        assert isinstance(probabilities, dict)
        assert list(probabilities) == CLASSES
        assert list(probabilities.values()) == pytest.approx(expected[version, grey], abs=1e-5)
    versions = [answer["model_version"] for _, _, answer in answers]
    assert sum(a != b for a, b in pairwise(versions)) >= MOVES - 1  # it did change under way
    moves = [record.entry for record in islice(ledger.history(MODEL), MOVES)]
    assert [entry.kind for entry in moves] == [ledger.Kind.ROLLBACK, ledger.Kind.PROMOTION] * (MOVES // 2)
