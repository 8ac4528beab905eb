"""What a client of the service may do, with and without its key; docs/threat-model.md shows the table."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator

import pytest
import requests
from PIL import Image

from tests.stack import role_tables
from tests.stack.airflow_stack.conftest import DailyRun
from tests.stack.conftest import FIRST_PORT, PROJECT, TAG, Stack
from tests.waiting import until

pytestmark = pytest.mark.docker
KEY = "a-key-of-this-test"
PORT = FIRST_PORT + 7
Headers = dict[str, str]
WITHOUT, WRONG, RIGHT = "no key is set", "a key is set: client without it", "a key is set: client with it"


def image() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()


ACTIONS: dict[str, Callable[[str, Headers], requests.Response]] = {
    "ask whether it lives": lambda url, headers: requests.get(f"{url}/livez", headers=headers, timeout=60),
    "read its metrics": lambda url, headers: requests.get(f"{url}/metrics", headers=headers, timeout=60),
    "ask which model answers": lambda url, headers: requests.post(f"{url}/get_model_info", headers=headers, timeout=60),
    "have an image classified": lambda url, headers: requests.post(
        f"{url}/predict_image", files={"image": ("a.png", image(), "image/png")}, headers=headers, timeout=60
    ),
    "make it look at the alias now": lambda url, headers: requests.post(f"{url}/refresh", headers=headers, timeout=60),
}


@pytest.fixture(scope="module")
def with_key(airflow: Stack) -> Iterator[str]:
    """Address of a second service beside the stack's, with a key."""
    environment = {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_USERNAME": "pipeline-serving",
        "MLFLOW_TRACKING_PASSWORD": airflow.variables["MLFLOW_SERVING_PASSWORD"],
        "SERVING_REGISTERED_MODEL": airflow.variables["SERVING_REGISTERED_MODEL"],
        "SERVING_WORKERS": "1",
        "SERVING_API_KEY": KEY,
    }
    name, options = f"{PROJECT}-with-key", [f"--env={name}={value}" for name, value in environment.items()]
    command = ["docker", "run", "--detach", "--rm", "--name", name, "--network", PROJECT, "--memory", "4g", *options]
    image = f"vision-mlops/serving:{TAG}"
    subprocess.run([*command, "--publish", f"127.0.0.1:{PORT}:3000", image], check=True, capture_output=True)
    try:
        yield f"http://127.0.0.1:{PORT}"
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], check=True, capture_output=True)


def ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=60).ok
    except requests.ConnectionError:
        return False


def test_a_client_of_the_service_can_do_what_the_document_says_and_no_more(
    airflow: Stack, by_hand: DailyRun, with_key: str
) -> None:
    until(lambda: ready(with_key), 600)
    right = {"Authorization": f"Bearer {KEY}"}
    clients = {WITHOUT: (airflow.serving_url, {}), WRONG: (with_key, {}), RIGHT: (with_key, right)}

    def allowed(text: str, client: str) -> bool:
        url, headers = clients[client]
        answer = ACTIONS[text](url, headers)
        assert answer.ok or answer.status_code in (401, 403), f"{client}: {text}: {answer.text}"
        return answer.ok

    rows = ((text, {client: allowed(text, client) for client in clients}) for text in ACTIONS)
    role_tables.check("Service", [*clients], rows)
