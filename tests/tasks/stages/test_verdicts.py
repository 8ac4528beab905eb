"""The gate from end to end: real small models, exported, measured, judged and registered beside a real champion."""

from __future__ import annotations

from collections.abc import Callable

import mlflow
import pytest
import torch

from tasks.contract.messages import TaskIdentity
from tasks.contract.promotion import EvaluateRequest, EvaluateResult, RegisterRequest, RegisterResult
from tasks.records import ledger, registry, tracking
from tasks.records.inputs.evaluation import EvaluateInputs
from tasks.settings import Settings
from tasks.stages import evaluate, register
from tests.tasks.stages.conftest import PixelReader
from tests.tasks.store_copies import Beginnings

THREE_OF_FOUR = [0, 1, 2, 2]
PERFECT = [0, 1, 2, 3]
HALF = [0, 1, 0, 0]
OTHER_THREE = [0, 1, 3, 3]
TrainRun = Callable[..., str]


@pytest.fixture(autouse=True)
def not_timed() -> None:
    """Timed they are, here."""


class Slower(PixelReader):
    """The same answers after work that nobody needs."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        waste = torch.ones(600, 600) + images.float().mean()  # of the images, or it would be worked out once, on export
        for _ in range(2):
            waste = (waste @ waste).clamp(0, 1)
        return super().forward(images) * waste[0, 0]


class Bigger(PixelReader):
    """The same answers with 40 MB of weights."""

    def __init__(self, table: list[int], classes: int) -> None:
        super().__init__(table, classes)
        self.register_buffer("weights", torch.ones(10_000_000))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * self.weights[0]


def judge(
    settings: Settings, identity: Callable[[str], TaskIdentity], train_run_id: str, day: str, **limits: float
) -> tuple[EvaluateResult, RegisterResult]:
    """Evaluate and register a model on a day by its name."""
    name = {"registered_model": "pets"}
    asked = identity("evaluate").model_copy(update={"dag_run_id": day})
    request = EvaluateRequest.model_validate({"task": asked, "train_run_id": train_run_id, **name, **limits})
    with tracking.stage_run(request, "evaluate", settings) as run:
        verdict = evaluate.run(request, EvaluateInputs.resolve(request, run), run, settings)
    asked = identity("register").model_copy(update={"dag_run_id": day})
    told = RegisterRequest.model_validate({"task": asked, "evaluate_run_id": verdict.run_id, "approval": {}, **name})
    with tracking.stage_run(told, "register", settings) as run:
        return verdict, register.run(told, run, settings)


@pytest.mark.parametrize(
    ("table", "network", "failed"),
    [
        pytest.param(HALF, PixelReader, {"gain", "proof of a gain", "not worse"}, id="worse"),
        pytest.param(OTHER_THREE, PixelReader, {"proof of a gain", "not worse"}, id="equal"),
        pytest.param(PERFECT, Slower, {"latency p50", "latency p95"}, id="slower"),
        pytest.param(PERFECT, Bigger, {"size"}, id="bigger"),
        pytest.param(PERFECT, PixelReader, set(), id="better"),
    ],
)
def test_each_candidate_gets_the_right_verdict(
    settings: Settings,
    identity: Callable[[str], TaskIdentity],
    train_run: TrainRun,
    table: list[int],
    network: type[PixelReader],
    failed: set[str],
    beginnings: Beginnings,
) -> None:
    def promote_one() -> None:
        judge(settings, identity, train_run(THREE_OF_FOUR), "mon", max_calibration_error=0.5)

    beginnings.begin("a champion", settings, promote_one)
    verdict, registered = judge(settings, identity, train_run(table, network=network), "tue", max_calibration_error=0.5)
    rows = mlflow.artifacts.load_dict(f"runs:/{verdict.run_id}/verdict.json")["checks"]
    assert {row["name"] for row in rows if not row["passed"]} == failed, verdict.reason
    champion = registry.by_alias("pets")
    assert champion is not None
    assert (int(champion.version), registered.promoted) == ((1, False) if failed else (2, True))
    newest, first = ledger.history("pets")
    assert (first.entry.kind, first.entry.to_version) == (ledger.Kind.PROMOTION, 1)
    assert newest.entry.kind == (ledger.Kind.REFUSAL if failed else ledger.Kind.PROMOTION)
    assert newest.entry.reason == registered.reason
    assert newest.entry.by == "daily tue"
