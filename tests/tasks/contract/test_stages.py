from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.contract.data import PrepareRequest
from tasks.contract.messages import TaskIdentity, parse
from tasks.contract.stages import STAGES, parameters, parse_request
from tasks.contract.training import TrainRequest
from tasks.errors import RequestError, ResultError

FILES = {"dataset": "image_folder", "source": "/data"}
TASK = {"dag_id": "daily", "dag_run_id": "scheduled__2026-01-01T00:00:00+00:00", "task_id": "t"}
RUN_ID = "0" * 32


def request(**fields: Any) -> str:
    return json.dumps({"task": TASK, **fields})


def test_defaults_make_a_digits_request() -> None:
    parsed = parse_request("prepare", request())
    assert isinstance(parsed, PrepareRequest)
    assert (parsed.dataset, parsed.source, parsed.registered_model) == ("digits", None, "vision-classifier")


def test_key_is_the_same_for_every_try() -> None:
    assert TaskIdentity(**TASK).key == "daily/scheduled__2026-01-01T00:00:00+00:00/t/-1"


@pytest.mark.parametrize("dag_run_id", ["", "a'b", "a b", 'a"b'])
def test_identity_refuses_what_would_break_a_search(dag_run_id: str) -> None:
    with pytest.raises(RequestError, match="dag_run_id"):
        parse_request("prepare", {"task": {**TASK, "dag_run_id": dag_run_id}})


@pytest.mark.parametrize(
    ("stage", "fields", "names"),
    [
        ("prepare", {"dataset": "imagenet"}, ["imagenet", "digits", "image_folder"]),
        ("prepare", {"dataset": "image_folder"}, ["source"]),
        ("prepare", {"source": "/data"}, ["/data", "image_folder"]),
        ("prepare", {"validation_fraction": 0.6, "test_fraction": 0.5}, ["0.6", "0.5", "less than 1"]),
        ("prepare", {"image_size": 4}, ["image_size=4", "8"]),
        ("prepare", {"layout": "sheet"}, ["layout='sheet' goes with a source, not with dataset='digits'"]),
        ("prepare", {**FILES, "layout": "yolo"}, ["layout='yolo'", "'splits'", "'sheet'"]),
        ("prepare", {**FILES, "layout": "names"}, ["layout='names' needs label_pattern"]),
        (
            "prepare",
            {**FILES, "label_pattern": "(?P<label>"},
            ["label_pattern=", "not a regular expression (", "correct"],
        ),
        ("prepare", {**FILES, "label_pattern": r"(.+)_\d"}, ["label_pattern=", "no group `label`", "(?P<label>.+)_"]),
        ("prepare", {**FILES, "label_pattern": "(?P<label>.)" + "a" * 300}, ["label_pattern=", "at most 300"]),
        ("prepare", {**FILES, "label_pattern": "(?P<label>.)", "layout": "sheet"}, ["goes with layout='names', not"]),
        ("prepare", {**FILES, "label_pattern": "(?P<label>.)", "file_column": "a"}, ["not label_pattern; remove one"]),
        ("prepare", {**FILES, "label_column": "a", "layout": "splits"}, ["not layout='splits'; remove one"]),
        ("prepare", {**FILES, "name_encoding": "klingon"}, ["name_encoding='klingon': not an encoding", "gb18030"]),
        ("prepare", {**FILES, "name_encoding": "zlib_codec"}, ["name_encoding='zlib_codec': not an encoding"]),
        ("prepare", {**FILES, "name_encoding": "utf-16"}, ["name_encoding='utf-16': not an encoding"]),
        ("prepare", {**FILES, "max_left_out": 2}, ["max_left_out=2", "1"]),
        (
            "prepare",
            {"corrections": "https://host/a.csv"},
            ["corrections='https://host/a.csv': cannot be opened; give"],
        ),
        ("prepare", {"corrections": "file:///a.csv"}, ["corrections='file:///a.csv': cannot be opened; give a file"]),
        ("prepare", {"corrections": "runs:/abc/a.csv"}, ["corrections='runs:/abc/a.csv': not a file of an MLflow run"]),
        ("prepare", {"corrections": f"runs:/{RUN_ID}/"}, ["not a file of an MLflow run; write runs:/RUN_ID/PATH"]),
        ("prepare", {"corrections": "a" * 2001}, ["corrections=", "at most 2000 characters"]),
        ("prepare", {"registered_model": "a/b"}, ["registered_model", "a/b"]),
        ("train", {"prepare_run_id": RUN_ID, "model": "vgg"}, ["vgg", "fast_cnn", "resnet18"]),
        ("train", {"prepare_run_id": RUN_ID, "learning_rate": 0}, ["learning_rate=0", "greater than 0"]),
        ("train", {"prepare_run_id": RUN_ID, "epochs": "many"}, ["epochs='many'", "integer"]),
        ("train", {"prepare_run_id": RUN_ID, "lerning_rate": 1}, ["lerning_rate", "unknown parameter"]),
        ("train", {"prepare_run_id": "../etc"}, ["prepare_run_id", "../etc"]),
        ("train", {}, ["prepare_run_id", "missing"]),
        ("train", {"prepare_run_id": RUN_ID, "force": ["trian"]}, ["force.0='trian'", "'tune', 'train'", "'all'"]),
        ("compress", {"method": "shrink"}, ["method='shrink'", "choose one of int8, distill, prune"]),
        ("compress", {"method": "prune", "pruning_ratio": 1}, ["pruning_ratio=1", "less than 1"]),
        ("compress", {"method": "prune", "pruning_ratio": 0}, ["pruning_ratio=0", "greater than 0"]),
        (
            "compress",
            {"method": "prune", "compression_epochs": 0},
            ["compression_epochs=0", "greater than or equal to 1"],
        ),
        ("deploy", {"version": 0}, ["version=0"]),
        ("predict", {}, ["images=''", "a folder or archive, local or s3://"]),
        ("predict", {"images": "gs://b/a"}, ["images='gs://b/a' is neither a local path nor an s3:// address"]),
        ("predict", {"images": "a", "out": "s3://b/"}, ["out='s3://b/' is a whole bucket"]),
        ("predict", {"images": "a", "alias": "a b"}, ["alias='a b'"]),
    ],
)
def test_bad_request_names_the_value_and_what_would_do(stage: str, fields: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(stage, request(**fields))
    assert "\n" not in str(caught.value)
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "epochs: 3", "NaN"])
def test_what_is_not_a_json_object_is_a_request_error(text: str) -> None:
    with pytest.raises(RequestError):
        parse_request("train", text)


def test_not_a_number_is_refused() -> None:
    with pytest.raises(RequestError, match="learning_rate"):
        parse_request("train", {"task": TASK, "prepare_run_id": RUN_ID, "learning_rate": float("nan")})


@pytest.mark.parametrize("text", ["", "{}", '{"run_id": 1}'])
def test_malformed_result_is_a_result_error(text: str) -> None:
    with pytest.raises(ResultError):
        STAGES["train"].parse_result(text)


def test_parameters_are_the_fields_with_a_default() -> None:
    names = parameters(TrainRequest)
    assert "epochs" in names
    assert not {"task", "prepare_run_id"} & set(names)
    assert names["model"]["anyOf"][0]["examples"][:2] == ["fast_cnn", "mobilenet_v3_small"]


def test_what_a_stage_hands_over_is_no_parameter() -> None:
    """Whoever starts a run cannot say what an earlier stage wrote."""
    fields = {name for stage in STAGES.values() for name in stage.request.model_fields if name.endswith("_tags")}
    assert fields == {"prepare_tags", "tune_tags", "train_tags", "evaluate_tags"}
    assert not fields & {name for stage in STAGES.values() for name in parameters(stage.request)}


def test_a_parameter_of_several_stages_is_the_same_everywhere() -> None:
    """One field of the form feeds them all, so type, default and limits must agree."""
    seen: dict[str, Any] = {}
    for contract in STAGES.values():
        for name, schema in parameters(contract.request).items():
            assert seen.setdefault(name, schema) == schema, name


def test_every_stage_result_begins_with_run_experiment_and_seconds() -> None:
    for contract in STAGES.values():
        assert list(contract.result.model_fields)[:3] == ["run_id", "experiment_id", "seconds"]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("", None),
        (None, None),
        *[(text, text) for text in ("fixed.csv", "C:/a.csv", "s3://b/a", f"runs:/{RUN_ID}/a/b")],
    ],
)
def test_corrections_are_none_a_file_or_an_address(given: str | None, read: str | None) -> None:
    assert parse(PrepareRequest, {"task": TASK, "corrections": given}, RequestError).corrections == read
