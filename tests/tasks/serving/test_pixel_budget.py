"""A service that administrators allow less than the default: what is at its limits is answered, what is above is not.

Images above are heads of files, without pixels: decoding one would be another error.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from PIL import Image

from tasks.serving import process
from tests.tasks.serving.samples import Service, Store, environment, free_port
from tests.waiting import until

SIDE = 1024  # of a square image of SERVING_MAX_IMAGE_MEGAPIXELS=1
HEAD = 700  # bytes: enough for the size in the formats of this test, far too few for the pixels


@pytest.fixture(scope="module")
def url(session_service: Service, session_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of its own, with the model of the store, which allows an image of one MiPixel and a request of two."""
    home: Path = tmp_path_factory.mktemp("budget")
    address = f"http://127.0.0.1:{free_port()}"
    settings = session_store.settings.model_copy(update={"pipeline_home": home, "serving_url": address})
    tracking = {"MLFLOW_TRACKING_URI": session_store.settings.tracking_uri, "SERVING_WORKERS": "1"}
    budget = {"SERVING_MAX_IMAGE_MEGAPIXELS": "1", "SERVING_MAX_REQUEST_MEGAPIXELS": "2"}
    log = home / "service.log"
    command = [sys.executable, "-m", "tasks.serving"]
    variables = environment(settings, **tracking, **budget)
    with log.open("wb") as file, subprocess.Popen(command, env=variables, stderr=file, cwd=process.ROOT) as child:

        def ready() -> bool:
            assert child.poll() is None, log.read_text()
            try:
                return requests.get(f"{address}/readyz", timeout=120).ok
            except requests.ConnectionError:
                return False

        try:
            until(ready)
            yield address
        finally:
            child.terminate()


def square(width: int, height: int, file_format: str) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).save(file, file_format)
    assert len(file.getvalue()) > 2 * HEAD
    return file.getvalue()


def ask(url: str, *images: bytes) -> requests.Response:
    return requests.post(f"{url}/predict_batch", files=[("images", ("x", data)) for data in images], timeout=120)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP"])
def test_an_image_at_the_limit_is_answered_and_one_above_is_refused_by_its_head(
    store: Store, url: str, file_format: str
) -> None:
    answer = ask(url, square(SIDE, SIDE, file_format))
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, 1), answer.text
    refused = ask(url, square(SIDE, SIDE + 1, file_format)[:HEAD])
    assert refused.status_code == 413, refused.text
    assert f"{SIDE * SIDE + SIDE} pixels ({SIDE} x {SIDE + 1}) are over {SIDE * SIDE} " in refused.json()["error"]


def test_a_request_at_the_limit_is_answered_and_one_above_is_refused_by_its_heads(store: Store, url: str) -> None:
    whole = square(SIDE, SIDE, "PNG")
    answer = ask(url, whole, whole)
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, 2), answer.text
    refused = ask(url, *[whole[:HEAD]] * 3)
    assert refused.status_code == 413, refused.text
    assert f"{3 * SIDE * SIDE} pixels or more together, over {2 * SIDE * SIDE} " in refused.json()["error"]


def test_a_head_without_pixels_is_no_image_where_its_size_is_allowed(store: Store, url: str) -> None:
    assert ask(url, square(SIDE, SIDE, "PNG")[:HEAD]).status_code == 400


def test_by_default_the_largest_size_is_answered_and_one_above_is_refused_by_its_head(
    store: Store, service: Service
) -> None:
    side = 8192
    files = {"image": ("x", square(side, side, "PNG"))}
    answer = service.post("predict_image", files=files)
    assert answer.status_code == 200, answer.text
    refused = service.post("predict_image", files={"image": ("x", square(side, side + 1, "PNG")[:HEAD])})
    assert refused.status_code in (400, 413), refused.text
    assert f"{side} x {side + 1}" in refused.json()["error"]
