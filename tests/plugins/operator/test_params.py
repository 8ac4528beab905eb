from __future__ import annotations

import pytest
from airflow.sdk.exceptions import ParamValidationError

from pipeline.operator.params import require_known, stage_params
from tasks.contract.stages import STAGES
from tasks.errors import RequestError

ALL = tuple(STAGES)


def test_each_default_satisfies_its_own_schema() -> None:
    for name, param in stage_params(*ALL).items():
        if name != "reason":
            assert param.resolve() == param.value, name


def test_a_reason_has_no_default_that_would_do() -> None:
    with pytest.raises(ParamValidationError):
        stage_params("rollback")["reason"].resolve()


def test_no_text_is_empty_by_default_or_the_form_calls_it_missing() -> None:
    empty = {name for name, param in stage_params(*ALL).items() if param.value == ""}
    assert empty == {"reason"}  # which is asked for


def test_choices_become_a_dropdown_under_their_heading() -> None:
    schema = stage_params(*ALL)["dataset"].schema
    assert schema["enum"][0] == "digits"
    assert (schema["section"], schema["title"]) == ("Data", "Dataset")


def test_an_optional_value_is_a_type_the_form_knows() -> None:
    schema = stage_params("prepare")["image_size"].schema
    assert schema["type"] == ["integer", "null"]
    assert (schema["minimum"], schema["maximum"]) == (8, 512)


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
