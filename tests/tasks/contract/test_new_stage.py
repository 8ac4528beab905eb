"""A new stage is its module, its entry and its line in a DAG: three files, and everything else follows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from images.declared import images
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
MODULE = '''
"""shrink: make a trained model smaller."""

import mlflow

from tasks.contract.training import ShrinkRequest, ShrinkResult
from tasks.records.tracking import StageRun
from tasks.settings import Settings


def run(request: ShrinkRequest, run: StageRun, settings: Settings) -> ShrinkResult:
    """Pretend to."""
    mlflow.log_metric("megabytes", request.bits / 8)
    return ShrinkResult(**run.result_fields, megabytes=request.bits / 8)
'''
MODELS = '''
class ShrinkRequest(StageRequest):
    """Make a trained model smaller."""

    section: ClassVar[str] = "Training"

    train_run_id: UpstreamRunId
    bits: Literal[8, 16] = Field(8, description="Bits per weight.")


class ShrinkResult(StageResult):
    """`run_id` leads to the small model."""

    megabytes: float = Field(gt=0)

    @property
    def headline(self) -> str:
        """The size."""
        return f"{self.megabytes:.1f} MB"


STAGES = (
    Stage("shrink", ShrinkRequest, ShrinkResult, extra="vision", resources=StageResources(memory="2g")),
'''
IN_AIRFLOW = """
import json
from types import SimpleNamespace
from daily_training import dag
task = dag.get_task("shrink")
task.request_fields = {"train_run_id": "0" * 32}
params = dag.params.dump()
instance = SimpleNamespace(run_id="manual__2", map_index=-1)
context = {"ti": instance, "dag_run": SimpleNamespace(conf=None), "params": params}
job = task.job(context)
print(json.dumps([task.run_stage(context), job.image, job.resources.memory, params["bits"]]))
"""


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the project with one stage more."""
    for name in ("tasks", "plugins", "dags"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tasks/stages/shrink.py").write_text(MODULE.lstrip(), encoding="utf-8")
    entry = tmp_path / "tasks/contract/training.py"
    replaced(entry, "STAGES = (\n", MODELS.lstrip())
    replaced(entry, "    StageResult,\n", "    StageRequest,\n    StageResult,\n")
    dag = tmp_path / "dags/daily_training.py"
    replaced(dag, '"train", "evaluate"', '"train", "shrink", "evaluate"')
    replaced(dag, "):\n    prepare", ") as dag:\n    prepare")
    replaced(
        dag,
        "    deployed = promote",
        '    stage_task("shrink", train_run_id=train.output["run_id"])\n    deployed = promote',
    )
    return tmp_path


def python(house: Path, settings: Settings, *arguments: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": f"{house}:{house}/plugins:{house}/dags",
        "PIPELINE_HOME": str(settings.pipeline_home),
        "AIRFLOW_HOME": str(house / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    done = subprocess.run([sys.executable, *arguments], cwd=house, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_three_files_make_a_stage(house: Path, settings: Settings) -> None:
    task = {"dag_id": "daily_training", "dag_run_id": "manual__1", "task_id": "shrink"}
    request = json.dumps({"task": task, "train_run_id": "0" * 32, "bits": 16})
    python(house, settings, "-m", "tasks", "shrink", "--request", request, "--result", "result.json")
    result: dict[str, Any] = json.loads((house / "result.json").read_text())
    assert result["megabytes"] == 2
    run = MlflowClient(settings.tracking_uri).get_run(result["run_id"])
    assert (run.info.status, run.data.metrics["megabytes"]) == ("FINISHED", 2)

    show = "from tasks.cli.summary import rows; from tasks.settings import load_settings as s; "
    printed = python(house, settings, "-c", show + "print(*rows('daily_training', s()), sep='\\n')")
    assert "'2.0 MB'" in printed

    ran, image, memory, bits = json.loads(python(house, settings, "-c", IN_AIRFLOW).splitlines()[-1])
    assert (ran["megabytes"], image, memory, bits) == (1, "vision-mlops/shrink:dev", "2g", 8)
    assert images(house)["shrink"].build_arguments[-1].endswith("tasks.stages.shrink")
