"""What a stage wrote is changed afterwards, files and tags, by somebody with the password of `pipeline-stages`.

Every stage has it, so that one of them can do this to the run of another (docs/threat-model.md).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from tasks.contract.messages import StageResult
from tasks.contract.recipe import Hyperparameters
from tasks.contract.stages import STAGES
from tasks.errors import ChangedError
from tasks.files import sha256
from tasks.records import artifact_digest, gold_store, registry, tracking, tuned_sets, verified_artifacts
from tasks.records.tuned_sets import TunedSet
from tasks.runner.stage_process import execute
from tasks.settings import Settings
from tasks.vision.data.shards import writer
from tasks.vision.data.shards.description import DESCRIPTION
from tests import stored_files
from tests.tasks.store_copies import Beginnings

LENIENT = {"min_accuracy": 0, "min_macro_f1": 0, "max_calibration_error": 1}
NAME = "vision-classifier"
Day = dict[str, dict[str, Any]]  # results by stage


def ask(stage: str, day: str, results: Day, **changes: Any) -> dict[str, Any]:
    """Run a stage as the DAG daily_training does, with what the stages before handed over; return its result."""
    asked: dict[str, Any] = {
        "prepare": lambda: {},
        "train": lambda: {"epochs": 1, **of("prepare", results)},
        "evaluate": lambda: {**LENIENT, **of("train", results), "prepare_tags": results["prepare"]["tags"]},
        "register": lambda: {
            **of("evaluate", results),
            "train_tags": results["train"]["tags"],
            "approval": {},
        },
    }[stage]()
    task = {"dag_id": "daily", "dag_run_id": day, "task_id": stage}
    result: StageResult = execute(stage, json.dumps({"task": task, **asked, **changes}))
    return json.loads(result.model_dump_json())  # as it comes back from Airflow's database


def of(stage: str, results: Day) -> dict[str, Any]:
    return {f"{stage}_run_id": results[stage]["run_id"], f"{stage}_tags": results[stage]["tags"]}


@pytest.fixture
def monday(beginnings: Beginnings, settings: Settings) -> Day:
    """The test's store has the runs of prepare, train and evaluate; their results."""

    def make() -> Day:
        results: Day = {}
        for stage in ("prepare", "train", "evaluate"):
            results[stage] = ask(stage, "mon", results)
        return results

    return beginnings.begin("monday", settings, make)


def stored(run_id: str, path: str) -> Path:
    return stored_files.of_run(run_id) / path


def rewrite_gold(run_id: str) -> None:
    """Make test images easy: all are of one class, and say so. Files, digests and all tags fit each other again."""
    gold = gold_store.fetch_made_by(run_id)
    test = replace(gold.test, labels=np.zeros_like(gold.test.labels))
    folder = stored(run_id, gold_store.ARTIFACT)
    shutil.rmtree(folder)
    folder.mkdir()
    writer.save(replace(gold, test=test), folder)
    description = sha256(folder / DESCRIPTION)
    MlflowClient().set_tag(run_id, f"{verified_artifacts.TAG}gold/{DESCRIPTION}", description)
    MlflowClient().set_tag(run_id, gold_store.GOLD_SHA256, artifact_digest.of_files({DESCRIPTION: description}))


def rewrite_text(run_id: str, name: str, change: Callable[[str], str]) -> None:
    file = stored(run_id, name)
    file.write_text(change(file.read_text()))
    MlflowClient().set_tag(run_id, f"{verified_artifacts.TAG}{name}", sha256(file))


def test_a_day_passes_and_its_results_say_what_later_stages_rely_on(monday: Day) -> None:
    assert ask("register", "mon", monday)["promoted"]
    for stage, result in monday.items():
        assert set(result["tags"]) == set(STAGES[stage].hands_over)
        absent = {name for name, value in result["tags"].items() if not value}
        assert absent == {name for name in STAGES[stage].hands_over if "compress" in name or "calibration" in name}
        assert not [name for name in mlflow.get_run(result["run_id"]).data.params if name.endswith("_tags")]
    assert registry.by_number(NAME, 1).tags[gold_store.GOLD_SHA256] == monday["prepare"]["tags"]["pipeline.gold_sha256"]


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_gold_that_was_changed_with_its_tags_stops_the_day(monday: Day, stage: str) -> None:
    run_id = monday["prepare"]["run_id"]
    rewrite_gold(run_id)
    with pytest.raises(ChangedError, match=f"tag 'pipeline.gold_sha256' of run {run_id} was changed after its stage"):
        ask(stage, "tue", monday, force=[stage])


def test_gold_that_was_changed_with_the_digests_of_its_files_only_stops_the_day(monday: Day) -> None:
    run_id = monday["prepare"]["run_id"]
    before = monday["prepare"]["tags"]["pipeline.gold_sha256"]
    rewrite_gold(run_id)
    MlflowClient().set_tag(run_id, gold_store.GOLD_SHA256, before)
    with pytest.raises(ChangedError, match=f"the gold of run {run_id} is not what prepare made or checked"):
        ask("train", "tue", monday, force=["train"])


def test_a_train_run_that_was_led_to_other_gold_stops_the_day(monday: Day) -> None:
    other = ask("prepare", "tue", {}, force=["prepare"])["run_id"]
    MlflowClient().set_tag(monday["train"]["run_id"], "pipeline.prepare_run_id", other)
    with pytest.raises(ChangedError, match=f"tag 'pipeline.prepare_run_id' of run .* is '{other}', and was "):
        ask("evaluate", "tue", monday, force=["evaluate"])


def test_a_model_that_took_the_place_of_the_trained_one_stops_the_day(monday: Day) -> None:
    MlflowClient().set_tag(monday["train"]["run_id"], "pipeline.logged_model_uri", "models:/m-" + "0" * 32)
    for stage in ("evaluate", "register"):
        with pytest.raises(ChangedError, match=r"tag 'pipeline.logged_model_uri' of run .* was changed"):
            ask(stage, "tue", monday, **({"force": [stage]} if stage == "evaluate" else {}))
    assert registry.by_alias(NAME) is None


def test_a_trained_model_that_is_called_a_compressed_one_stops_the_day(monday: Day) -> None:
    """The gate asks less of those: not worse than before, and faster."""
    MlflowClient().set_tag(monday["train"]["run_id"], "pipeline.compression", "int8")
    with pytest.raises(ChangedError, match=r"tag 'pipeline.compression' of run .* it is 'int8', and was ''"):
        ask("evaluate", "tue", monday, force=["evaluate"])


def test_classes_that_were_changed_with_their_digest_stop_the_day(monday: Day) -> None:
    rewrite_text(monday["train"]["run_id"], registry.CLASSES, lambda text: text.replace("0", "zero"))
    with pytest.raises(ChangedError, match=r"tag 'pipeline.sha256.classes.json' of run .* was changed"):
        ask("register", "tue", monday)


@pytest.mark.parametrize("name", ["evidence.json", "verdict.json", "probes.json"])
def test_what_evaluate_wrote_stops_the_day_if_it_was_changed_with_its_digest(monday: Day, name: str) -> None:
    rewrite_text(monday["evaluate"]["run_id"], name, lambda text: text + " ")
    with pytest.raises(ChangedError, match=f"tag 'pipeline.sha256.{name}' of run {monday['evaluate']['run_id']}"):
        ask("register", "tue", monday)
    assert registry.by_alias(NAME) is None


def test_a_search_whose_result_was_changed_stops_the_day(monday: Day) -> None:
    prepared = monday["prepare"]["run_id"]  # any run
    found = TunedSet(prepared, "digits", "fast_cnn", Hyperparameters(learning_rate=0.07))
    tuned_sets.keep(found)
    handed_over = tracking.handed_over(prepared, STAGES["tune"].hands_over)
    tuned_sets.keep(replace(found, hyperparameters=Hyperparameters(learning_rate=9.0)))
    with pytest.raises(ChangedError, match=r"tag 'pipeline.hyperparameters' of run .* was changed"):
        ask("train", "tue", monday, tuned_by=prepared, tune_tags=handed_over, model="fast_cnn")


def test_a_result_of_an_earlier_release_is_taken_as_it_is(monday: Day) -> None:
    """In a DAG run that the upgrade interrupted, and in a DAG file of one's own that hands nothing over."""
    before = {stage: {**result, "tags": None} for stage, result in monday.items()}
    for stage in ("prepare", "evaluate"):
        MlflowClient().delete_tag(monday[stage]["run_id"], gold_store.GOLD_SHA256)
    assert ask("evaluate", "tue", before)["promote"]
    assert ask("register", "tue", before)["promoted"]


def test_gold_that_a_version_was_judged_on_stops_prepare_if_it_was_changed(monday: Day) -> None:
    ask("register", "mon", monday)
    run_id = monday["prepare"]["run_id"]
    rewrite_gold(run_id)
    with pytest.raises(ChangedError, match=f"the gold of run {run_id} was changed, files and tags"):
        ask("prepare", "tue", {})


def test_other_gold_of_which_the_same_model_was_made_is_reused_once_it_was_judged(monday: Day) -> None:
    """Such as gold in the format of another release: the version is the same, and would be asked for ever after."""
    MlflowClient().delete_tag(monday["evaluate"]["run_id"], gold_store.GOLD_SHA256)
    before = {stage: {**result, "tags": None} for stage, result in monday.items()}
    ask("register", "mon", before)
    MlflowClient().set_model_version_tag(NAME, "1", gold_store.GOLD_SHA256, "f" * 64)  # the other gold
    assert not ask("prepare", "tue", {}, force=["prepare"])["reused"]
    MlflowClient().set_tag(
        monday["evaluate"]["run_id"], gold_store.GOLD_SHA256, monday["prepare"]["tags"]["pipeline.gold_sha256"]
    )
    ask("register", "tue", before)
    assert ask("prepare", "wed", {})["reused"]


def test_gold_that_another_stage_left_is_not_reused(monday: Day) -> None:
    """A run that says it is prepare's, newer than the real one, with wrong labels and digests that fit them."""
    ask("register", "mon", monday)
    again = ask("prepare", "tue", {}, force=["prepare"])
    rewrite_gold(again["run_id"])
    taken = ask("prepare", "wed", {})
    assert taken["reused"]
    assert taken["tags"] == monday["prepare"]["tags"]
    gold = gold_store.fetch(taken["run_id"])
    assert len(set(gold.test.labels.tolist())) == 10


def test_an_evaluation_is_reused_once_register_recorded_it(monday: Day) -> None:
    assert ask("evaluate", "tue", monday)["reused_from"] is None
    ask("register", "mon", monday)
    # The champion is this very model by now: judged again, by the measurements that register recorded.
    assert ask("evaluate", "wed", monday)["reused_from"] == monday["evaluate"]["run_id"]


def test_an_evaluation_that_was_changed_with_its_tags_is_not_reused(monday: Day) -> None:
    ask("register", "mon", monday)
    rewrite_text(monday["evaluate"]["run_id"], "evidence.json", lambda text: text + " ")
    assert ask("evaluate", "wed", monday)["reused_from"] is None


def test_an_evaluation_that_another_stage_made_up_is_not_reused(monday: Day) -> None:
    """A finished run with everything that evaluate would look for; whoever writes it can choose the verdict."""
    real = mlflow.get_run(monday["evaluate"]["run_id"])
    tags = {name: value for name, value in real.data.tags.items() if name.startswith("pipeline.")}
    forged = MlflowClient().create_run(real.info.experiment_id, tags={**tags, "pipeline.key": "x"}).info.run_id
    for name in ("evidence.json", "verdict.json", "probes.json"):
        MlflowClient().log_artifact(forged, str(stored(real.info.run_id, name)))
    MlflowClient().set_terminated(forged)
    assert ask("evaluate", "tue", monday)["reused_from"] is None
