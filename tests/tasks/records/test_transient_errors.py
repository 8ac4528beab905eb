from __future__ import annotations

import pytest
import requests
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, UNAUTHENTICATED

from tasks.errors import StoreFullError
from tasks.records.tracking import http_status
from tasks.records.transient_errors import answered_by_another, as_unavailable


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


FULL = [
    requests.HTTPError("507 Server Error: Insufficient Storage for url: http://mlflow:5000/api. Response text: {}"),
    requests.HTTPError('507 Server Error. Response text: {"message":"the S3 store is full (QuotaExceeded); raise"}'),
    requests.HTTPError("403 Client Error: Forbidden for url. Response text: <Error><Code>QuotaExceeded</Code></Error>"),
    ClientError({"Error": {"Code": "QuotaExceeded"}}, "PutObject"),
    ClientError({"Error": {"Code": "XMinioAdminBucketQuotaExceeded"}}, "PutObject"),
    ClientError({"Error": {"Code": "XMinioStorageFull"}}, "UploadPart"),
    S3UploadFailedError("Failed to upload a to b: An error occurred (QuotaExceeded) when calling the PutObject"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_store_is_told_with_what_to_do_whoever_noticed_it(error: Exception) -> None:
    outer = RuntimeError("while logging")
    outer.__cause__ = error
    told = as_unavailable(outer)
    assert isinstance(told, StoreFullError)
    assert str(told).startswith("the artifact store is full (")
    assert "raise its quota or free space" in str(told)
    assert ("507" in str(told)) == ("{}" in str(error)), "the store's own word, where there is one"


@pytest.mark.parametrize("error", [ValueError("QuotaExceeded"), requests.HTTPError("404 Client Error: /507/x")])
def test_a_word_about_quotas_is_not_a_full_store(error: Exception) -> None:
    assert as_unavailable(error) is None


@pytest.mark.parametrize("error", [MlflowException("RESOURCE_DOES_NOT_EXIST"), ValueError("shape"), KeyError("bug")])
def test_a_bug_is_not_taken_for_one(error: Exception) -> None:
    assert as_unavailable(error) is None


@pytest.mark.parametrize("status", [400, 404])
def test_an_answer_that_is_not_mlflows_is_no_word_about_what_mlflow_has(status: int) -> None:
    error = MlflowException(
        f"API request to endpoint /api/2.0/runs/get failed with error code {status} != 200. Response body: '<html>'",
        error_code=RESOURCE_DOES_NOT_EXIST,
    )
    assert answered_by_another(error)
    assert http_status(error) == 502
    assert "is not MLflow" in str(as_unavailable(error))


def test_mlflows_own_word_is_its_word() -> None:
    error = RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "failed with error code 404 != 200"})
    assert not answered_by_another(error)
    assert http_status(error) == 404
    refused = MlflowException(
        "API request to endpoint /api failed with error code 401 != 200. Response body: 'You are not authenticated'",
        error_code=UNAUTHENTICATED,
    )
    assert not answered_by_another(refused)
    assert http_status(refused) == 401
