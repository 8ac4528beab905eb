"""The stages around a compression, run one after the other on real small networks."""

from __future__ import annotations

from typing import Any

import mlflow

from tasks.contract.compression import CompressRequest, CompressResult
from tasks.contract.messages import StageRequest, StageResult, TaskIdentity
from tasks.contract.promotion import EvaluateRequest, RegisterRequest, RollbackRequest
from tasks.contract.training import TrainRequest
from tasks.records import gold_store, tracking
from tasks.records.inputs.compression import CompressInputs
from tasks.records.inputs.evaluation import EvaluateInputs
from tasks.records.inputs.training import TrainInputs
from tasks.settings import Settings
from tasks.stages import compress, evaluate, register, rollback, train
from tests.digits import digits_as_gold

PETS = {"registered_model": "pets"}
GATE = {**PETS, "min_accuracy": 0.1, "min_macro_f1": 0.0, "max_calibration_error": 1.0}
GATE |= {"non_inferiority_margin": 0.1}  # of 200 test images, a few may change


class KilledError(BaseException):
    """Ends a try as a kill does: nothing of the stage catches it."""


class Pipeline:
    """Runs stages one after the other, on days by their names."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.day = "mon"

    def _run(self, stage: str, kind: type[StageRequest], inputs: Any, module: Any, **fields: Any) -> StageResult:
        task = TaskIdentity(dag_id="weekly", dag_run_id=self.day, task_id=stage)
        request = kind.model_validate({"task": task, **fields})
        with tracking.stage_run(request, stage, self._settings) as run:
            found = [inputs.resolve(request, run)] if inputs else []
            result: StageResult = module.run(request, *found, run, self._settings)
            tracking.record_result(run, result)
        return result

    def prepare(self) -> str:
        experiment_id = tracking.connect(self._settings)
        with mlflow.start_run(experiment_id=experiment_id) as prepare:
            gold_store.store(digits_as_gold(train=300, validation=100, test=200))
            names = ("pipeline.dataset", "pipeline.fingerprint", "pipeline.data_licence", "pipeline.gold_run_id")
            mlflow.set_tags(dict(zip(names, ("digits", "f" * 64, "CC BY 4.0", prepare.info.run_id), strict=True)))
        return str(prepare.info.run_id)

    def train(self, prepare_run_id: str, **fields: Any) -> str:
        fields = {"epochs": 3, "log_every": 0, "device": "cpu", "model": "fast_cnn", **PETS, **fields}
        return self._run("train", TrainRequest, TrainInputs, train, prepare_run_id=prepare_run_id, **fields).run_id

    def compress(self, **fields: Any) -> CompressResult:
        fields = {"calibration_images": 50, **PETS, **fields}
        return self._run("compress", CompressRequest, CompressInputs, compress, **fields)  # type: ignore[return-value]

    def judge(self, run_id: str, **policy: Any) -> tuple[Any, Any]:
        judged = self._run(
            "evaluate", EvaluateRequest, EvaluateInputs, evaluate, train_run_id=run_id, **{**GATE, **policy}
        )
        told = {"evaluate_run_id": judged.run_id, "approval": {}, **PETS}
        return judged, self._run("register", RegisterRequest, None, register, **told)

    def rollback(self) -> Any:
        return self._run("rollback", RollbackRequest, None, rollback, reason="sees eights", **PETS)
