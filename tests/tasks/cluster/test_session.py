"""How long Ray waits for its own processes; the tests of the stages start a real one."""

from __future__ import annotations

import inspect

import pytest
from ray._private import services
from ray._private.node import Node

from tasks.cluster import session


class Registers:
    """Stands in for Ray's question about the node that starts: it is unknown until it was asked for `after` times."""

    def __init__(self, after: float) -> None:
        self.after, self.asked = after, 0

    def __call__(self, address: str, node: str) -> dict[str, str]:
        self.asked += 1
        if self.asked <= self.after:
            raise RuntimeError(f"{node} at {address} has not registered")
        return {"node": node}


def test_ray_waits_longer_for_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    registers = Registers(after=3)
    monkeypatch.setattr(services, "get_node", registers)
    with session._patience():
        assert services.get_node("address", "n") == {"node": "n"}
    assert registers.asked == 4
    assert services.get_node is registers


def test_ray_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "get_node", Registers(after=float("inf")))
    monkeypatch.setattr(session, "START_SECONDS", 0.2)
    with session._patience(), pytest.raises(RuntimeError, match="n at address has not registered"):
        services.get_node("address", "n")


def test_ray_still_asks_in_the_way_that_the_patience_is_for() -> None:
    source = inspect.getsource(Node.__init__)
    assert "ray._private.services.get_node(" in source
    assert "raylet_start_wait_time_s = 30" in source, "if it is a setting now, set it"
