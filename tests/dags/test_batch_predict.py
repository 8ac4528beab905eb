"""The DAG that classifies a source by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_it_asks_what_the_form_says_and_is_not_repeated_for_bad_data(run_scenarios: Callable[..., Any]) -> None:
    conf = {"images": "s3://b/photos/", "out": "s3://b/found/", "model_version": 3}
    asked: dict[str, Any] = {"dag": "batch_predict", "conf": conf}
    runs = run_scenarios({"good": asked | {"stub": {}}, "bad": asked | {"stub": {"fail": "predict", "code": 65}}})
    ((task, request),) = runs["good"]["calls"]
    assert task == "predict"
    assert request | conf == request
    assert (request["registered_model"], request["alias"], request["max_failed"]) == (
        "vision-classifier",
        "champion",
        0.25,
    )
    assert runs["good"]["results"]["predict"]
    assert runs["bad"]["tasks"]["predict"] == ["failed", 1]
