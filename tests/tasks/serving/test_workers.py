"""Orders to workers, with programs that stand in for them; and the real service's workers, killed and counted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tasks.errors import ModelError
from tasks.serving import process, workers
from tasks.serving.accepting import listening
from tasks.serving.model import PreparedModel
from tasks.serving.model_reference import Target
from tasks.serving.workers import Workers, number_of_workers
from tests.tasks.serving.samples import CLASSES, MODEL, WORKERS, Service, Store, environment, free_port, picture
from tests.tasks.serving.test_metrics import scraped, total
from tests.waiting import until


def prepared(version: int, **metadata: list[int]) -> PreparedModel:
    target = Target(f"models:/m/{version}", "m", version, "abc")
    return PreparedModel(target, tuple(CLASSES), (1, 8, 8), dict(metadata), "onnx", Path("/nowhere/model.onnx"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening("127.0.0.1", 0, ipv6=False) as found:
        yield found


class Stubs:
    """Two workers that stand in, and what each was told."""

    def __init__(self, listener: socket.socket, folder: Path) -> None:
        self.workers = Workers(2, listener, folder / "control", folder)
        self._folder = folder

    def told(self, index: int) -> list[str]:
        with suppress(FileNotFoundError):
            return (self._folder / f"orders-{index}").read_text().splitlines()
        return []


@pytest.fixture
def stubs(listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubs]:
    monkeypatch.setattr(workers, "MODULE", "tests.tasks.serving.stub_worker")
    monkeypatch.setattr(workers, "FIRST_DELAY", 0.01)
    monkeypatch.chdir(process.ROOT)
    found = Stubs(listener, tmp_path)
    found.workers.start()
    until(lambda: found.told(0) == found.told(1) == ["accept"])
    yield found
    found.workers.end(signal.SIGTERM)
    until(lambda: found.workers.ended)


def test_a_model_goes_into_service_when_all_have_opened_it(stubs: Stubs) -> None:
    stubs.workers.serve(prepared(1))
    assert stubs.told(0) == stubs.told(1) == ["accept", "prepare 1", "serve"]


def test_if_one_cannot_open_it_none_serves_it(stubs: Stubs) -> None:
    stubs.workers.serve(prepared(1))
    with pytest.raises(ModelError, match="the file is damaged"):
        stubs.workers.serve(prepared(2, fails=[1]))
    assert stubs.told(0) == stubs.told(1) == ["accept", "prepare 1", "serve", "prepare 2", "forget"]
    stubs.workers.serve(prepared(3))
    assert stubs.told(1)[-2:] == ["prepare 3", "serve"]


def test_if_it_kills_one_none_serves_it_and_the_new_one_gets_the_old_model(stubs: Stubs) -> None:
    stubs.workers.serve(prepared(1))
    with pytest.raises(ModelError, match="killed, perhaps because memory is short"):
        stubs.workers.serve(prepared(2, dies=[1]))
    until(lambda: stubs.told(1)[-4:] == ["prepare 2", "prepare 1", "serve", "accept"])
    assert stubs.told(0)[-1] == "forget"


def test_a_worker_that_ended_is_given_the_model_before_connections(stubs: Stubs) -> None:
    stubs.workers.serve(prepared(1))
    stubs.workers._workers[0].process.kill()
    until(lambda: stubs.told(0)[3:] == ["prepare 1", "serve", "accept"])


def test_one_worker_for_each_cpu_but_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cpus", lambda: 3)
    assert (number_of_workers(None), number_of_workers(7)) == (3, 7)
    monkeypatch.setattr(workers, "available_cpus", lambda: 64)
    assert number_of_workers(None) == 4


# The real service
def ask(url: str, session: requests.Session) -> tuple[str, Any]:
    answer = session.post(f"{url}/predict_image", files={"image": picture(0)}, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-worker"], answer.json()["model_version"]


def test_connections_are_spread_evenly(service: Service) -> None:
    with ExitStack() as stack:
        sessions = [stack.enter_context(requests.Session()) for _ in range(12)]
        spread = Counter(ask(service.url, session)[0] for session in sessions)
    assert set(spread) == {"0", "1"}
    assert min(spread.values()) >= 4  # connections of other tests may still be open


def test_all_workers_swap_before_the_service_says_so(service: Service, store: Store) -> None:
    with ExitStack() as stack:
        sessions = [stack.enter_context(requests.Session()) for _ in range(8)]
        assert {ask(service.url, session) for session in sessions} == {("0", 1), ("1", 1)}
        store.promote(2)
        until(lambda: service.info().get("model_version") == 2, pause=0.001)
        assert {ask(service.url, session) for session in sessions} == {("0", 2), ("1", 2)}


def test_a_killed_worker_is_missed_by_nobody_who_comes_after(service: Service) -> None:
    before = total(scraped(service), "serving_request_total", endpoint="/predict_image")
    [one, other] = service.workers()
    os.kill(one, signal.SIGKILL)
    until(lambda: one not in service.workers())
    for _ in range(10):
        with requests.Session() as session:
            assert ask(service.url, session)[1] == 1
    until(lambda: len(service.workers()) == WORKERS)
    assert other in service.workers()

    def both() -> bool:
        with ExitStack() as stack:
            sessions = [stack.enter_context(requests.Session()) for _ in range(6)]
            return {ask(service.url, session) for session in sessions} == {("0", 1), ("1", 1)}

    until(both)
    found = scraped(service)
    assert total(found, "serving_request_total", endpoint="/predict_image") >= before + 16
    assert total(found, "serving_request_in_progress") == 0  # those of the dead one do not count


@contextmanager
def own_service(store: Store, home: Path, **more: str) -> Iterator[Service]:
    """A service that a test may end."""
    url = f"http://127.0.0.1:{free_port()}"
    variables = environment(store.settings, PIPELINE_HOME=str(home), SERVING_URL=url, **more)
    child = subprocess.Popen([sys.executable, "-m", "tasks.serving"], env=variables, cwd=process.ROOT)
    service = Service(url, child.pid, 0)
    try:
        until(lambda: _status(f"{url}/readyz") == 200)
        yield service
    finally:
        child.kill()
        child.wait()


def _status(url: str) -> int:
    try:
        return requests.get(url, timeout=120).status_code
    except requests.ConnectionError:
        return 0


def running(pid: int) -> bool:
    return bool(process.command_line(pid))


def test_workers_end_with_a_control_process_that_was_killed(store: Store, tmp_path: Path) -> None:
    with own_service(store, tmp_path) as service:
        pids = service.workers()
        assert len(pids) == WORKERS
        os.kill(service.pid, signal.SIGKILL)
        until(lambda: not any(map(running, pids)))
        assert _status(f"{service.url}/readyz") == 0


def test_draining_all_workers_answer_and_then_end(store: Store, tmp_path: Path) -> None:
    with own_service(store, tmp_path, SERVING_DRAIN_SECONDS="3") as service:
        pids, failures = service.workers(), []
        busy = threading.Barrier(9)

        def client() -> None:
            with requests.Session() as session:
                ask(service.url, session)
                busy.wait()
                try:
                    while True:
                        answer = session.post(f"{service.url}/predict_image", files={"image": picture(0)}, timeout=60)
                        assert answer.status_code == 200, answer.text
                        if answer.headers.get("connection") == "close":
                            return
                except Exception as error:
                    failures.append(repr(error))

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        busy.wait()
        os.kill(service.pid, signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert failures == []
        assert _status(f"{service.url}/readyz") == 200, "who comes anew is answered too"
        until(lambda: not any(map(running, [service.pid, *pids])))


def test_the_registered_model_is_the_same_for_all(service: Service) -> None:
    info = service.info()
    assert (info["workers"], info["registered_model"]) == (WORKERS, MODEL)
