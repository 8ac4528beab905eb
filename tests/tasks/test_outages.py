from __future__ import annotations

import pytest
import requests
from mlflow.exceptions import MlflowException

from tasks.outages import as_unavailable


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.ReadTimeout("slow"),
        ConnectionRefusedError("refused"),
        TimeoutError("slow"),
        MlflowException("API request failed with Max retries exceeded with url: /api"),
    ],
)
def test_an_absent_server_is_recognised_behind_other_errors(error: Exception) -> None:
    assert as_unavailable(error) is not None
    outer = RuntimeError("while logging")
    outer.__cause__ = error
    assert as_unavailable(outer) is not None


@pytest.mark.parametrize("error", [MlflowException("RESOURCE_DOES_NOT_EXIST"), ValueError("shape"), KeyError("bug")])
def test_a_bug_is_not_taken_for_one(error: Exception) -> None:
    assert as_unavailable(error) is None
