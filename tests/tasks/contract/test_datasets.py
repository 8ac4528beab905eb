from __future__ import annotations

import pytest

from tasks.contract.data import PrepareRequest
from tasks.contract.datasets import DATASETS, NOT_STATED, DataSet, Files, flips, licence_of
from tasks.contract.messages import parse
from tasks.contract.stages import parameters
from tasks.errors import RequestError

BASE = {"task": {"dag_id": "d", "dag_run_id": "r", "task_id": "t"}}


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set that somebody added to the table."""
    monkeypatch.setitem(DATASETS, "signs", DataSet("road signs", Files(largest_side=48), "CC0", flip=False))
    return "signs"


def test_the_form_offers_every_data_set_and_says_what_each_shows() -> None:
    schema = parameters(PrepareRequest)["dataset"]
    assert schema["enum"] == list(DATASETS)
    assert schema["default"] in DATASETS
    for name, dataset in DATASETS.items():
        assert f"{name} ({dataset.description})" in schema["description"]


def test_an_entry_brings_its_choice_licence_and_flip(new: str) -> None:
    assert parameters(PrepareRequest)["dataset"]["enum"][-1] == new
    assert (licence_of(new, None), licence_of(new, "MIT"), licence_of("image_folder", None)) == (
        "CC0",
        "MIT",
        NOT_STATED,
    )
    assert (flips(new), flips("cifar10"), flips("digits")) == (False, True, False)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dataset": "mnist"}, "dataset='mnist': unknown; choose one of digits, .*, image_folder, signs$"),
        ({"dataset": "signs"}, "dataset='signs' needs source: a folder or archive, local or s3://"),
        ({"source": "/data"}, "source='/data' goes with dataset='image_folder' or dataset='signs', not 'digits'"),
    ],
)
def test_the_checks_follow_the_table(new: str, fields: dict[str, str], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        parse(PrepareRequest, BASE | fields, RequestError)
    assert parse(PrepareRequest, BASE | {"dataset": new, "source": "/data"}, RequestError).dataset == new
