"""Ask an S3 store for a bucket; needs boto3, which .venv has."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from deploy.env_file import ROOT

VENV = ROOT / ".venv"
TIMEOUT = 5.0  # seconds


def available() -> bool:
    """Tell whether this Python has boto3."""
    return importlib.util.find_spec("boto3") is not None


def restart_in_venv(arguments: Sequence[str]) -> None:
    """Become `python -m deploy ARGUMENTS` of .venv where this Python has no boto3 and .venv exists; else do nothing."""
    python = VENV / "bin" / "python"
    if not available() and python.exists() and sys.prefix != str(VENV):
        os.execv(python, [str(python), "-m", "deploy", *arguments])  # noqa: S606  # no shell, arguments of ours


def head_bucket(url: str, bucket: str, keys: tuple[str, str], region: str) -> tuple[int, str | None]:
    """Ask whether a bucket exists and the keys are accepted; return the HTTP status and the Date header.

    Args:
        url: of the store, http or https.
        bucket: its name.
        keys: access key and secret key.
        region: of the bucket.

    Raises:
        ValueError: the URL is not an http(s) address.
        OSError: nothing answers, or not in HTTP.
    """
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from botocore.exceptions import BotoCoreError
    from botocore.httpsession import URLLib3Session

    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is not an address")
    # One signed request: the client of boto3 would follow a redirect to another region, which is what we want to know.
    request = AWSRequest("HEAD", f"{url.rstrip('/')}/{bucket}")
    S3SigV4Auth(Credentials(*keys), "s3", region).add_auth(request)
    try:
        answer = URLLib3Session(timeout=TIMEOUT).send(request.prepare())
    except BotoCoreError as error:
        raise OSError(str(error)) from error
    return int(answer.status_code), answer.headers.get("Date")
