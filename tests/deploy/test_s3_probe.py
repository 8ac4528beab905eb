from __future__ import annotations

import http.client
from datetime import UTC, datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from deploy import s3_probe


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_a_request_is_signed_as_botocore_signs_it(region: str) -> None:
    request = AWSRequest("HEAD", "http://127.0.0.1:9000/a-bucket")
    S3SigV4Auth(Credentials("access", "secret"), "s3", region).add_auth(request)
    moment = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = s3_probe.signed("127.0.0.1:9000", "/a-bucket", ("access", "secret"), region, moment)
    assert ours["Authorization"] == request.headers["Authorization"]


@pytest.mark.parametrize("url", ["", "here:9000", "ftp://here"])
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        s3_probe.head_bucket(url, "a-bucket", ("access", "secret"), "us-east-1")


def test_a_port_that_nobody_listens_on_is_an_error_of_the_connection() -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        s3_probe.head_bucket("http://127.0.0.1:9", "a-bucket", ("access", "secret"), "us-east-1")
