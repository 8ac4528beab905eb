"""One real training and evaluation; what later runs take of it, and what they do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from PIL import Image

import tasks.stages.evaluate
import tasks.stages.train
import tasks.stages.tune
from tasks.cli.sample import sample
from tasks.contract.messages import StageResult
from tasks.contract.promotion import EvaluateResult
from tasks.contract.recipe import Hyperparameters
from tasks.contract.stages import STAGES
from tasks.contract.training import TuneRequest, TuneResult
from tasks.errors import DataError
from tasks.gate.verdict import Verdict
from tasks.records import ledger, queries, registry, removed_weights, tracking, tuned_sets
from tasks.records.inputs.training import TrainInputs, TuneInputs
from tasks.records.ledger import Entry, Kind
from tasks.records.tracking import StageRun
from tasks.records.tuned_sets import TunedSet
from tasks.reuse import code_digest
from tasks.reuse import earlier_results as reuse
from tasks.runner import stage_process as runner
from tasks.serving import opened_model
from tasks.serving.load_check import LoadCheck, load_and_answer
from tasks.settings import Settings
from tasks.vision import accelerator
from tasks.vision.evaluation.scoring import Latency

MODULES = {"train": tasks.stages.train, "tune": tasks.stages.tune, "evaluate": tasks.stages.evaluate}
NAME = "vision-classifier"
LENIENT = {"min_accuracy": 0, "min_macro_f1": 0, "max_calibration_error": 1}
RunIds = dict[str, str]  # run IDs by stage
Ask = Callable[..., StageResult | None]


class WorkedError(Exception):
    """The stage was called: it did not take an earlier result."""


def request(stage: str, dag_run_id: str, run_ids: RunIds, **changes: Any) -> str:
    before = {"train": "prepare", "tune": "prepare", "evaluate": "train"}.get(stage)
    fields = {f"{before}_run_id": run_ids[before]} if before else {}
    fields |= {"train": {"epochs": 1}, "tune": {"epochs": 2, "trials": 2}, "evaluate": LENIENT}.get(stage, {})
    return json.dumps({"task": {"dag_id": "daily", "dag_run_id": dag_run_id, "task_id": stage}} | fields | changes)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunIds]]:
    """The folder of an MLflow in which one DAG run prepared, trained, searched and evaluated; its run IDs by stage."""
    home = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PIPELINE_", "SERVING_"))]:
            patch.delenv(name)
        patch.setenv("PIPELINE_HOME", str(home))
        # Tested beside their modules: a search, and timing beside other work, take half a minute.
        patch.setattr(MODULES["tune"], "run", searched)
        patch.setattr(MODULES["evaluate"], "latencies", lambda models, images: [Latency(1, 1, 1)] * len(models))
        patch.setattr(opened_model, "load_check", loaded_here)
        patch.setattr(Figure, "savefig", blank)
        run_ids: RunIds = {}
        for stage in ("prepare", "train", "tune", "evaluate"):
            run_ids[stage] = runner.execute(stage, request(stage, "first", run_ids)).run_id
        recorded(run_ids)
        yield home, run_ids


def recorded(run_ids: RunIds) -> None:
    """Record a verdict as register does, without which no evaluation is reused."""
    evaluated = tracking.RunTags.read(run_ids["evaluate"])
    entry = Entry(
        key="daily/first/register/-1",
        kind=Kind.REFUSAL,
        registered_model=NAME,
        from_version=None,
        to_version=None,
        candidate_version=1,
        candidate_sha256=tracking.tag_of(run_ids["train"], registry.SHA256),
        by="daily first",
        reason="refused",
        evidence_run_id=evaluated.run_id,
        evidence_sha256=evaluated.require("pipeline.sha256.evidence.json"),
    )
    with ledger.recorded(entry):
        pass


@contextmanager
def loaded_here(folder: Path) -> Iterator[Callable[[], LoadCheck]]:
    """The real trial, without the seconds that a new process spends on imports; tests/tasks/serving has it whole."""
    trial = replace(load_and_answer(folder), memory_mb=50.0)  # this process's memory is not the model's own
    yield lambda: trial


def blank(figure: Figure, target: Any, **options: Any) -> None:
    """Nobody looks at the plots here, and drawing them takes as long as most of the rest."""
    Image.new("L", (1, 1)).save(target, "PNG")


@pytest.fixture(autouse=True)
def blank_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", blank)


def searched(request: TuneRequest, inputs: TuneInputs, run: StageRun, settings: Settings) -> TuneResult:
    best = Hyperparameters(learning_rate=0.07)
    tuned_sets.keep(TunedSet(run.run_id, "digits", request.network("digits"), best))
    return TuneResult(
        **run.result_fields, model="fast_cnn", hyperparameters=best, metric=request.metric, best_value=0.9,
        best_trial=0, finished=2, stopped=0, failed=0, epochs=4,
    )  # fmt: skip


@pytest.fixture
def run_ids(first: tuple[Path, RunIds], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunIds:
    """The run IDs, in a copy of that MLflow which a test may change: all but its files."""
    home, ids = first
    shutil.copy(home / "mlflow.db", tmp_path / "mlflow.db")
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PIPELINE_", "SERVING_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    tracking.connect(Settings())
    return dict(ids)


@pytest.fixture
def ask(run_ids: RunIds, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask for a stage as a DAG run does, a new one unless named; None where the stage would have worked."""
    numbers = count(1)

    def work(*_: object) -> None:
        raise WorkedError

    def execute(stage: str, *, dag_run_id: str | None = None, **changes: Any) -> StageResult | None:
        with monkeypatch.context() as patch:
            patch.setattr(MODULES[stage], "run", work)
            try:
                return runner.execute(stage, request(stage, dag_run_id or f"run-{next(numbers)}", run_ids, **changes))
            except WorkedError:
                return None

    return execute


def own_run(stage: str, dag_run_id: str) -> Any:
    experiment_id = tracking.connect(Settings())
    tags = {"pipeline.dag_run_id": dag_run_id, "pipeline.stage": stage}
    (run,) = queries.find_runs(experiment_id, tags)
    return run


# --- What is reused


@pytest.mark.parametrize("stage", MODULES)
def test_the_same_again_is_taken_with_its_run_id(ask: Ask, run_ids: RunIds, stage: str) -> None:
    result = ask(stage, dag_run_id="again")
    assert result is not None
    assert result.run_id == result.reused_from == run_ids[stage]
    own, earlier = own_run(stage, "again"), MlflowClient().get_run(run_ids[stage])
    known = STAGES[stage].parse_result(earlier.data.tags[tracking.RESULT_TAG])
    assert result.model_copy(update={"reused_from": None, "seconds": known.seconds, "tags": None}) == known
    assert own.info.run_id != run_ids[stage]
    assert own.info.status == "FINISHED"
    assert own.data.tags[tracking.REUSED_FROM] == run_ids[stage]
    assert own.data.metrics == {}
    assert f"(#/experiments/{own.info.experiment_id}/runs/{run_ids[stage]})" in own.data.tags["mlflow.note.content"]
    assert STAGES[stage].parse_result(own.data.tags[tracking.RESULT_TAG]) == result.model_copy(update={"tags": None})


def test_the_log_says_which_run_and_how_to_have_it_made_anew(ask: Ask, run_ids: RunIds, caplog: Any) -> None:
    caplog.set_level("INFO", logger="tasks")  # a library imported for other tests raises the root's
    ask("train")
    (line,) = [line for line in caplog.messages if "reused" in line]
    assert line.startswith(f"train: reused run {run_ids['train']} of 20")
    assert line.endswith('(same data, weights, hyperparameters and code); force=["train"] runs it again')


def test_a_chain_names_the_run_that_did_the_work(ask: Ask, run_ids: RunIds) -> None:
    assert ask("train") is not None
    second = ask("train")
    assert second is not None
    assert second.reused_from == run_ids["train"]
    MlflowClient().delete_run(run_ids["train"])
    assert ask("train") is None  # those that took its result have none of their own


def test_other_data_run_of_the_same_data_is_the_same(
    ask: Ask, run_ids: RunIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids["prepare"] = runner.execute("prepare", request("prepare", "second", {})).run_id
    assert ask("train") is not None
    assert ask("tune") is not None


def test_an_evaluation_is_the_same_wherever_the_answers_were_computed(ask: Ask, run_ids: RunIds) -> None:
    result = ask("evaluate", workers=3, worker_cpus=2)
    assert result is not None
    assert result.run_id == run_ids["evaluate"]


def test_a_reused_training_imports_no_torch(run_ids: RunIds) -> None:
    program = f"""
import sys
from tasks.runner import stage_process as runner
result = runner.execute("train", {request("train", "light", run_ids)!r})
print(result.reused_from, sorted({{"torch", "torchvision", "ray"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1:] == [f"{run_ids['train']} []"], done.stderr


# --- What is not


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("train", {"epochs": 2}),
        ("train", {"seed": 1}),
        ("train", {"learning_rate": 0.1}),  # set explicitly, though it is the default
        ("tune", {"trials": 3}),
        ("tune", {"search_space": {"learning_rate": [0.1, 0.2]}}),
        ("evaluate", {"min_accuracy": 0.1}),
        ("evaluate", {"registered_model": "other"}),
    ],
)
def test_another_request_is_worked_on(ask: Ask, stage: str, changes: dict[str, Any]) -> None:
    assert ask(stage, **changes) is None


@pytest.mark.parametrize("tag", ["pipeline.fingerprint", "pipeline.data_licence"])
def test_other_data_are_worked_on(ask: Ask, run_ids: RunIds, tag: str) -> None:
    MlflowClient().set_tag(run_ids["prepare"], tag, "another")
    assert [stage for stage in MODULES if ask(stage) is not None] == []


def test_other_weights_are_worked_on(ask: Ask, run_ids: RunIds) -> None:
    MlflowClient().set_tag(run_ids["train"], registry.SHA256, "0" * 64)
    assert ask("evaluate") is None


def test_a_tuned_set_is_part_of_a_training(ask: Ask, run_ids: RunIds) -> None:
    assert ask("train", tuned_by=run_ids["tune"]) is None
    version = registry.create_version(
        NAME, "runs:/x/model", run_ids["train"], {tuned_sets.TUNE_RUN: run_ids["tune"], registry.SHA256: "a"}, ""
    )
    ledger.move_champion(entry(Kind.PROMOTION, None, int(version.version), "a"))
    assert ask("train", dag_run_id="tuned") is None
    assert tuned_sets.TUNE_RUN not in own_run("train", "tuned").data.tags  # the stage itself writes its choice
    assert ask("train", hyperparameters="default") is None  # another request, though it comes to the first one's values


def test_another_device_is_worked_on(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_first_gpu", lambda: "NVIDIA A")
    assert ask("train") is None
    assert ask("tune") is None
    assert ask("evaluate") is not None  # which computes on the CPU


@pytest.mark.parametrize("stage", MODULES)
def test_other_code_is_worked_on_and_that_of_other_stages_does_not_count(
    ask: Ask, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_stage, changed = code_digest.of_stage, {"prepare", "register", "deploy"}
    monkeypatch.setattr(code_digest, "of_stage", lambda name: f"{name in changed}{of_stage(name)}")
    assert ask(stage) is None
    monkeypatch.setattr(code_digest, "of_stage", lambda name: "other" if name in changed else of_stage(name))
    assert ask(stage) is not None
    changed.add(stage)
    assert ask(stage) is None


def entry(kind: Kind, before: int | None, after: int | None, sha256: str, **more: Any) -> Entry:
    values: dict[str, Any] = {
        "key": f"daily/{kind}-{sha256}/register/-1", "kind": kind, "registered_model": NAME, "from_version": before,
        "to_version": after, "candidate_version": after or 1, "candidate_sha256": sha256, "by": "ann", "reason": "so",
    }  # fmt: skip
    return Entry(**(values | more))


def crowned(run_ids: RunIds, sha256: str) -> int:
    """Make a version with these weights and the champion of it."""
    tags = {registry.SHA256: sha256, "pipeline.train_run_id": run_ids["train"]}
    version = int(registry.create_version(NAME, "runs:/x/model", run_ids["train"], tags, "").version)
    registry.set_alias(NAME, registry.CHAMPION, version)
    return version


def test_a_verdict_is_of_one_champion_and_its_looks(ask: Ask, run_ids: RunIds) -> None:
    def judged(as_of: str) -> str:
        """The key of an evaluation now; the stage itself is not run."""
        assert ask("evaluate", dag_run_id=as_of) is None
        return str(own_run("evaluate", as_of).data.tags[reuse.KEY])

    version = crowned(run_ids, "a")
    keys = [judged("with-a-champion")]
    assert judged("with-the-same-champion") == keys[0]
    with ledger.recorded(entry(Kind.REFUSAL, version, version, "b")):
        pass
    keys.append(judged("one-look-more"))
    ours = MlflowClient().get_run(run_ids["train"]).data.tags[registry.SHA256]
    ledger.move_champion(entry(Kind.ROLLBACK, 9, version, "a", former_sha256=ours))
    keys.append(judged("rolled-back"))
    MlflowClient().set_model_version_tag(NAME, str(version), registry.SHA256, "c")
    keys.append(judged("with-another-champion"))
    assert len(set(keys)) == len(keys)


# --- Weights that are the champion already


def champion_already(run_ids: RunIds) -> int:
    return crowned(run_ids, MlflowClient().get_run(run_ids["train"]).data.tags[registry.SHA256])


def test_a_candidate_that_is_champion_already_is_judged_without_being_measured(ask: Ask, run_ids: RunIds) -> None:
    version, measured = champion_already(run_ids), MlflowClient().get_run(run_ids["evaluate"])
    result = ask("evaluate", dag_run_id="again")
    assert isinstance(result, EvaluateResult)
    own = own_run("evaluate", "again")
    assert (result.run_id, result.reused_from) == (own.info.run_id, run_ids["evaluate"])
    assert (result.promote, result.champion_version) == (False, version)
    assert result.reason == f"unchanged: these weights are the champion already, version {version}"
    assert result.accuracy == result.champion_accuracy == measured.data.metrics["test_accuracy"]
    verdict = Verdict.model_validate_json(mlflow.artifacts.load_text(f"runs:/{result.run_id}/verdict.json"))
    assert verdict.is_champion
    assert own.data.tags["pipeline.train_run_id"] == run_ids["train"]
    assert reuse.KEY not in own.data.tags
    third = ask("evaluate")
    assert third is not None
    assert third.reused_from == run_ids["evaluate"]  # not the run that only judged


def test_a_retry_of_that_judgement_logs_no_figure_twice(ask: Ask, run_ids: RunIds) -> None:
    champion_already(run_ids)
    for _ in range(2):
        result = ask("evaluate", dag_run_id="judged-twice")
        assert result is not None
        assert result.reused_from == run_ids["evaluate"]
    history = MlflowClient().get_metric_history(own_run("evaluate", "judged-twice").info.run_id, "test_accuracy")
    assert [metric.step for metric in history] == [0]


def test_it_is_judged_by_the_policy_of_today(ask: Ask, run_ids: RunIds) -> None:
    champion_already(run_ids)
    result = ask("evaluate", min_accuracy=1)
    assert isinstance(result, EvaluateResult)
    assert result.reason.startswith("refused: ")
    assert "test accuracy" in result.reason


def test_it_is_measured_when_asked_or_the_code_is_another(
    ask: Ask, run_ids: RunIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion_already(run_ids)
    assert ask("evaluate", force=["evaluate"]) is None
    monkeypatch.setattr(code_digest, "of_stage", lambda name: "other")
    assert ask("evaluate") is None


def test_the_sample_of_a_run_that_measured_nothing_is_that_of_the_one_that_did(ask: Ask, run_ids: RunIds) -> None:
    first = sample("daily", Settings())
    assert ask("evaluate", dag_run_id="again") is not None
    assert sample("daily", Settings()) == first


# --- What is lost


def files(run_ids: RunIds, stage: str, name: str) -> Path:
    """Where one of a run's files lies, or a file of its model."""
    run = MlflowClient().get_run(run_ids[stage])
    if name.startswith("data/"):
        model = MlflowClient().get_logged_model(run.data.tags["pipeline.logged_model_uri"].removeprefix("models:/"))
        (found,) = (path for path in Path(model.artifact_location.removeprefix("file://")).glob(name) if path.is_file())
        return found
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


@pytest.mark.parametrize(
    ("stage", "of", "name"),
    [
        ("train", "train", "classes.json"),
        ("train", "train", "data/model.onnx"),
        ("train", "train", "data/model.pt2"),
        ("train", "prepare", "gold/train-00000-of-00001.npy"),
        ("evaluate", "evaluate", "verdict.json"),
        ("evaluate", "evaluate", "probes.json"),
        ("evaluate", "train", "data/model.onnx"),
    ],
)
def test_a_run_whose_files_are_gone_is_not_taken(
    ask: Ask, run_ids: RunIds, stage: str, of: str, name: str, caplog: Any
) -> None:
    caplog.set_level("INFO", logger="tasks")
    file = files(run_ids, of, name)
    kept = file.rename(file.with_name("hidden"))
    try:
        assert ask(stage) is None
    finally:
        kept.rename(file)
    assert f"run {run_ids[stage]} is not reused" in caplog.text
    assert ask(stage) is not None


def test_a_training_whose_weights_were_removed_is_made_anew(ask: Ask, run_ids: RunIds, caplog: Any) -> None:
    removed_weights.mark(run_ids["train"], [], "on 2026-11-28 by clean: refused on 2026-08-01")
    assert ask("train") is None
    assert "is not reused: its weights were removed (on 2026-11-28 by clean: refused on 2026-08-01)" in caplog.text


def test_a_damaged_model_is_not_taken(ask: Ask, run_ids: RunIds) -> None:
    file = files(run_ids, "train", "data/model.onnx")
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert ask("train") is None
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("stage", MODULES)
def test_a_deleted_run_is_not_taken(ask: Ask, run_ids: RunIds, stage: str) -> None:
    MlflowClient().delete_run(run_ids[stage])
    assert ask(stage) is None


def test_what_led_to_a_deleted_training_is_not_taken(ask: Ask, run_ids: RunIds) -> None:
    MlflowClient().delete_run(run_ids["train"])
    assert ask("evaluate") is None


def test_a_deleted_model_is_not_taken(ask: Ask, run_ids: RunIds) -> None:
    uri = MlflowClient().get_run(run_ids["train"]).data.tags["pipeline.logged_model_uri"]
    MlflowClient().delete_logged_model(uri.removeprefix("models:/"))
    assert ask("train") is None


@pytest.mark.parametrize(
    ("stage", "tag"),
    [("tune", tuned_sets.HYPERPARAMETERS), ("train", tracking.RESULT_TAG), ("evaluate", "pipeline.train_run_id")],
)
def test_a_run_without_what_it_was_made_for_is_not_taken(ask: Ask, run_ids: RunIds, stage: str, tag: str) -> None:
    MlflowClient().delete_tag(run_ids[stage], tag)
    assert ask(stage) is None


# --- force


@pytest.mark.parametrize(
    ("force", "worked"),
    [(["train"], ["train"]), (["evaluate", "tune"], ["tune", "evaluate"]), (["all"], [*MODULES])],
)
def test_force_turns_it_off_stage_by_stage(ask: Ask, force: list[str], worked: list[str]) -> None:
    assert [stage for stage in MODULES if ask(stage, force=force) is None] == worked


@pytest.mark.parametrize(("force", "reused"), [([], True), (["train"], True), (["prepare"], False), (["all"], False)])
def test_forced_prepare_makes_the_gold_anew(run_ids: RunIds, force: list[str], reused: bool) -> None:
    result = runner.execute("prepare", request("prepare", "again", {}, force=force))
    assert result.model_dump()["reused"] is reused


# --- Retries


def test_a_failed_run_is_never_taken(ask: Ask) -> None:
    assert ask("train", dag_run_id="failed", epochs=2) is None
    assert own_run("train", "failed").info.status == "FAILED"
    assert ask("train", epochs=2) is None


def test_a_retry_goes_on_with_what_it_began(ask: Ask, run_ids: RunIds) -> None:
    client = MlflowClient()
    client.delete_run(run_ids["train"])
    assert ask("train", dag_run_id="begun") is None
    client.restore_run(run_ids["train"])
    assert ask("train") is not None
    assert ask("train", dag_run_id="begun") is None


def test_a_run_that_was_reused_works_itself_when_its_source_is_gone(ask: Ask, run_ids: RunIds) -> None:
    assert ask("train", dag_run_id="cleared") is not None
    MlflowClient().delete_run(run_ids["train"])
    assert ask("train", dag_run_id="cleared") is None
    tags = own_run("train", "cleared").data.tags
    assert {tracking.REUSED_FROM, "mlflow.note.content"} & set(tags) == set()
    assert len(tags[reuse.KEY]) == 64


def test_a_run_of_two_codes_is_never_taken(ask: Ask, run_ids: RunIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun by one code and ended by another, it is the result of neither."""
    assert ask("train", dag_run_id="mixed", epochs=2) is None
    monkeypatch.setattr(code_digest, "of_stage", lambda name: "other")
    for _ in range(2):
        assert ask("train", dag_run_id="mixed", epochs=2) is None
        assert own_run("train", "mixed").data.tags[reuse.KEY] == reuse.MIXED


def test_what_is_missing_is_said_by_the_stage_itself(first: tuple[Path, RunIds], run_ids: RunIds) -> None:
    with pytest.raises(DataError, match="MLflow has no run"):
        runner.execute("train", request("train", "nowhere", {"prepare": "0" * 32}))


def test_data_that_do_not_say_what_they_are_are_never_the_same(ask: Ask, run_ids: RunIds) -> None:
    """The prepare run of an earlier release has no licence: it is trained on, and not compared."""
    MlflowClient().delete_tag(run_ids["prepare"], "pipeline.data_licence")
    for day in ("old-1", "old-2"):
        assert ask("train", dag_run_id=day) is None
        assert reuse.KEY not in own_run("train", day).data.tags


def test_inputs_are_resolved_once_and_handed_to_the_stage(run_ids: RunIds, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = TrainInputs.resolve
    resolved: list[Any] = []
    given: list[Any] = []
    monkeypatch.setattr(TrainInputs, "resolve", lambda *args: resolved.append(resolve(*args)) or resolved[-1])

    def work(request: object, inputs: Any, *_: object) -> None:
        given.append(inputs)
        raise WorkedError

    monkeypatch.setattr(MODULES["train"], "run", work)
    with pytest.raises(WorkedError):
        runner.execute("train", request("train", "once", run_ids, force=["train"]))
    assert [id(inputs) for inputs in given] == [id(inputs) for inputs in resolved]
    assert given[0].data.prepare_run_id == run_ids["prepare"]
