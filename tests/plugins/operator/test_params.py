from __future__ import annotations

import pytest
from airflow.sdk.exceptions import ParamValidationError

from pipeline.operator.params import asked_of, require_known, stage_params
from tasks.contract.compression import METHODS
from tasks.contract.stages import STAGES
from tasks.errors import RequestError

ALL = tuple(STAGES)
ASKED_FOR = {"reason", "images"}  # no default would do


def test_each_default_satisfies_its_own_schema() -> None:
    for name, param in stage_params(*ALL).items():
        if name not in ASKED_FOR:
            assert param.resolve() == param.value, name


def test_a_reason_has_no_default_that_would_do() -> None:
    with pytest.raises(ParamValidationError):
        stage_params("rollback")["reason"].resolve()


def test_no_text_is_empty_by_default_or_the_form_calls_it_missing() -> None:
    empty = {name for name, param in stage_params(*ALL).items() if param.value == ""}
    assert empty == ASKED_FOR


def test_choices_become_a_dropdown_under_their_heading() -> None:
    schema = stage_params(*ALL)["dataset"].schema
    assert schema["enum"][0] == "digits"
    assert (schema["section"], schema["title"]) == ("Data", "Dataset")


def test_an_optional_value_is_a_type_the_form_knows() -> None:
    schema = stage_params("prepare")["image_size"].schema
    assert schema["type"] == ["integer", "null"]
    assert (schema["minimum"], schema["maximum"]) == (8, 512)


def test_the_form_says_what_each_method_of_compression_does_and_takes() -> None:
    params = stage_params("compress")
    described = {name: str(param.description) for name, param in params.items()}
    assert all(f"{name} ({method.about})" in described["method"] for name, method in METHODS.items())
    taken = {"pruning_ratio": "prune: ", "student": "distill: ", "compression_epochs": "distill, prune: "}
    assert {name: described[name][: len(start)] for name, start in taken.items()} == taken
    assert (params["pruning_ratio"].resolve(), params["pruning_ratio"].resolve(0.3)) == (0.5, 0.3)
    for wrong in (0, 1, 50, "0.3", None):
        with pytest.raises(ParamValidationError):
            params["pruning_ratio"].resolve(wrong)


def test_the_sections_are_there() -> None:
    sections = {param.schema["section"] for param in stage_params(*ALL).values()}
    assert sections == {
        "Data",
        "Tuning",
        "Training",
        "Compression",
        "Promotion",
        "Rollback",
        "Deployment",
        "Cleaning",
        "Prediction",
        "Reuse",
        "Machine",
    }


def test_upstream_run_ids_are_not_asked_for() -> None:
    assert not {name for name in stage_params(*ALL) if name == "task" or name.endswith("run_id")}


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("epochs", "3"), ("dataset", "mnist"), ("image_size", 4)])
def test_the_limits_of_the_request_hold_in_the_form(name: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        stage_params(*ALL)[name].resolve(value)


def test_a_misspelt_parameter_gets_its_near_matches() -> None:
    with pytest.raises(RequestError, match=r"^unknown parameter 'epoch'; did you mean 'epochs'\?$"):
        require_known({"epoch": 3}, stage_params(*ALL))


def test_a_parameter_like_none_gets_the_list() -> None:
    with pytest.raises(RequestError, match=r"unknown parameter 'qqq'; choose from: .*dataset.*epochs"):
        require_known({"qqq": 3}, stage_params(*ALL))


def test_an_optional_choice_may_be_left_open() -> None:
    schedule = stage_params("train")["schedule"]
    assert schedule.resolve() is None
    assert schedule.resolve("cosine") == "cosine"
    with pytest.raises(ParamValidationError):
        schedule.resolve("linear")


def test_force_is_a_multiple_choice_at_the_end_of_the_form() -> None:
    params = stage_params("prepare", "train", "evaluate", "register", "deploy")
    assert list(params)[-1] == "force"
    schema = params["force"].schema
    assert (schema["type"], schema["section"]) == ("array", "Reuse")
    assert schema["examples"] == [
        "prepare",
        "tune",
        "train",
        "compress",
        "evaluate",
        "all",
    ]  # what makes Airflow show a choice
    assert params["force"].resolve() == []
    assert params["force"].resolve(["train", "all"]) == ["train", "all"]
    with pytest.raises(ParamValidationError, match=r"'register' is not one of \['prepare', 'tune', 'train'"):
        params["force"].resolve(["register"])


def test_a_form_without_a_stage_that_is_ever_reused_has_no_force() -> None:
    assert "force" not in stage_params("rollback", "deploy")


def test_a_stage_that_may_be_left_out_has_its_choice_under_its_own_name() -> None:
    params = stage_params("compress", optional={"compress": "none"})
    assert "method" not in params
    choice, method = params["compress"], stage_params("compress")["method"]
    assert choice.schema["enum"] == ["none", *method.schema["enum"]]
    assert choice.schema["section"] == method.schema["section"]
    assert choice.description is not None
    assert choice.description.endswith(str(method.description))
    assert (choice.resolve(), choice.resolve("int8")) == ("none", "int8")
    with pytest.raises(ParamValidationError):
        choice.resolve("int4")


def test_the_default_of_an_optional_stage_is_the_dags() -> None:
    assert stage_params("compress", optional={"compress": "int8"})["compress"].resolve() == "int8"
    with pytest.raises(ParamValidationError):
        stage_params("compress", optional={"compress": "int4"})["compress"].resolve()


@pytest.mark.parametrize(("stages", "optional"), [(["train"], "train"), (["train"], "compress"), ([], "shrink")])
def test_only_a_stage_of_the_form_that_declares_a_choice_is_optional(stages: list[str], optional: str) -> None:
    with pytest.raises(RequestError, match=f"stage '{optional}' cannot be optional here: it must be in the form and"):
        stage_params(*stages, optional={optional: "none"})


def test_each_choice_is_a_parameter_with_values_and_no_parameter_is_named_like_a_stage() -> None:
    for name, stage in STAGES.items():
        if stage.choice:
            assert "none" not in stage_params(name)[stage.choice].schema["enum"]
    assert not set(STAGES) & set(stage_params(*ALL))


def test_the_request_gets_the_choice_by_its_own_name() -> None:
    asked = {"compress": "int8", "calibration_images": 20, "epochs": 3}
    assert asked_of("compress", asked) == {"method": "int8", "calibration_images": 20}
    assert asked_of("compress", {"method": "int8", "seed": 1}) == {"method": "int8"}
    assert asked_of("train", {"train": "x", "epochs": 3}) == {"epochs": 3}
