"""What a program of the stack can do: sent to the Python of its container, where it prints the answers as JSON.

It tries with every login and key that the environment of its process has, and without any, from inside its networks.
Standard library only, and psycopg2, which the programs with a database have.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SOCKET = "/var/run/docker.sock"
REFUSED = {401, 403}
API = "http://mlflow:5000/api/2.0/mlflow"
Login = tuple[str, str] | None


def _ask(method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bool:
    """Tell whether a server does what it is asked for.

    Raises:
        RuntimeError: it neither does nor refuses it.
    """
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        if error.code in REFUSED:
            return False
        raise RuntimeError(f"{method} {url}: {error.code} {error.read()[:300]!r}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):  # not on this network
            return False
        raise


def mlflow(method: str, path: str, body: Mapping[str, Any] | None = None) -> bool:
    """Ask MLflow as nobody, and as every user whose password is here."""
    data = None if body is None else json.dumps(body).encode()

    def as_user(login: Login) -> bool:
        headers = {"Content-Type": "application/json"}
        if login is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
        return _ask(method, API + path, data, headers)

    return any(map(as_user, _mlflow_logins()))


def _mlflow_logins() -> Iterator[Login]:
    yield None
    for name, password in os.environ.items():
        if password and name.startswith("MLFLOW_") and name.endswith("_PASSWORD"):
            part = name.removeprefix("MLFLOW_").removesuffix("_PASSWORD")
            yield os.environ.get(f"MLFLOW_{part}_USERNAME") or f"pipeline-{part.lower()}", password


def bucket(method: str, key: str) -> bool:
    """Ask the S3 store without a key, and with every key that is here."""
    return any(_signed(method, f"/mlflow/{key}", login) for login in _s3_logins())


def _s3_logins() -> Iterator[Login]:
    yield None
    for name, value in os.environ.items():
        if name.startswith("AIRFLOW_CONN_"):
            connection = json.loads(value)
            yield connection["login"], connection["password"]
        elif value and name.endswith("ACCESS_KEY"):
            yield from _pair(value, name.removesuffix("ACCESS_KEY") + "SECRET_KEY")
        elif value and name.endswith("ACCESS_KEY_ID"):
            yield from _pair(value, name.removesuffix("ACCESS_KEY_ID") + "SECRET_ACCESS_KEY")


def _pair(key: str, secret: str) -> Iterator[Login]:
    if secret in os.environ:
        yield key, os.environ[secret]


def _signed(method: str, path: str, login: Login) -> bool:
    now, host, region = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), "s3:9000", "us-east-1"
    nothing = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": nothing, "x-amz-date": now}
    if login is not None:
        names = ";".join(sorted(headers))
        lines = [method, path, "", *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names, nothing]
        scope = (now[:8], region, "s3", "aws4_request")
        request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        key = b"AWS4" + login[1].encode()
        for part in (*scope, "\n".join(["AWS4-HMAC-SHA256", now, "/".join(scope), request])):
            key = hmac.digest(key, part.encode(), "sha256")
        credential = f"Credential={login[0]}/{'/'.join(scope)}"
        headers["Authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={key.hex()}"
    return _ask(method, f"http://{host}{path}", None, headers)


def engine(path: str, body: Mapping[str, Any]) -> bool:
    """Ask the Docker engine, through the socket proxy or by its socket."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    if not pathlib.Path(SOCKET).exists():
        return _ask("POST", f"http://docker-socket-proxy:2375/v1.41{path}", data, headers)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(SOCKET)
    connection.request("POST", f"/v1.41{path}", data, headers)
    answer = connection.getresponse()
    if answer.status >= 300:
        raise RuntimeError(f"{path}: {answer.status} {answer.read()[:300]!r}")
    return True


def database(name: str) -> bool:
    """Ask Postgres for a database, with every password that is here."""
    urls = [value for value in os.environ.values() if value.startswith("postgresql") and value.endswith(f"/{name}")]
    for url in urls:
        import psycopg2

        with contextlib.closing(psycopg2.connect(url.replace("postgresql+psycopg2", "postgresql"))) as connection:
            connection.cursor().execute("SELECT 1")
    return bool(urls)


def administer_airflow(user: int) -> bool:
    """Ask Airflow for its users without a token, or where the key is here with one that is signed with it."""
    url, key = "http://airflow-api-server:8080/auth/fab/v1/users", os.environ.get("AIRFLOW__API_AUTH__JWT_SECRET")
    if key is None:
        return _ask("GET", url)
    now = int(time.time())
    claims = {"sub": str(user), "aud": "apache-airflow", "iss": os.environ["AIRFLOW__API_AUTH__JWT_ISSUER"]}
    claims |= {"iat": now, "nbf": now, "exp": now + 60, "jti": "0"}  # type: ignore[dict-item]
    parts = [_part(json.dumps(part).encode()) for part in ({"alg": "HS512", "kid": "not-used"}, claims)]
    signature = hmac.digest(key.encode(), ".".join(parts).encode(), "sha512")
    return _ask("GET", url, None, {"Authorization": f"Bearer {'.'.join([*parts, _part(signature)])}"})


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def attempts(at: Mapping[str, Any]) -> dict[str, Callable[[], bool]]:
    """Return what to try, by name, on what the caller has prepared."""
    start = {"start_time": 1}
    alias = {"name": at["model"], "alias": "champion", "version": at["version"]}
    create = f"/containers/create?name={at['container']}"
    privileged = at["stage"] | {"HostConfig": at["stage"]["HostConfig"] | {"Privileged": True}}
    file = f"{at['experiment']}/{at['run']}/artifacts/file.txt"
    return {
        "log a run": lambda: mlflow("POST", "/runs/create", {"experiment_id": at["experiment"], **start}),
        "write a record into the ledger": lambda: mlflow(
            "POST", "/runs/create", {"experiment_id": at["ledger"], **start}
        ),
        "move the alias champion": lambda: mlflow("POST", "/registered-models/alias", alias),
        "create a user of MLflow": lambda: mlflow(
            "POST", "/users/create", {"username": at["user"], "password": "a-long-password-1"}
        ),
        "delete a run's file through MLflow": lambda: mlflow("DELETE", f"-artifacts/artifacts/{file}"),
        "delete it in the bucket": lambda: bucket("DELETE", file),
        "read a task's log in the bucket": lambda: bucket("GET", at["log"]),
        "read MLflow's database": lambda: database("mlflow"),
        "read Airflow's database": lambda: database("airflow"),
        "be Airflow's administrator": lambda: administer_airflow(at["administrator"]),
        "start a stage's container": lambda: engine(f"{create}-register-0123456789ab", at["stage"]),
        "start a privileged container": lambda: engine(f"{create}-register-ba9876543210", privileged),
    }


if __name__ == "__main__":
    done = {name: attempt() for name, attempt in attempts(json.loads(sys.argv[1])).items()}
    print(json.dumps({"done": done, "environment": [*os.environ.values()]}))
