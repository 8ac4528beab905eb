"""The running service: what it answers, how it follows the alias, how it refuses."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import mlflow
import pytest
import requests
from PIL import Image

from tasks.records import registry
from tasks.serving.admission import REQUESTS
from tasks.vision.data.formats.table import NAMES
from tests.tasks.serving.samples import CLASSES, MODEL, WORKERS, Service, Store, new_run, picture
from tests.tasks.vision.data.picture_files import case
from tests.waiting import until

MEBIBYTE = 2**20


def upload(data: bytes, name: str = "x.png") -> dict[str, tuple[str, bytes, str]]:
    return {"image": (name, data, "image/png")}


def test_alive_but_not_ready_until_a_champion_exists(service: Service, store: Store) -> None:
    fresh = json.loads((store.settings.pipeline_home / "fresh.json").read_text())
    assert (fresh["readyz"], fresh["health"], fresh["predict"]) == (503, 503, 503)
    assert fresh["info"]["model_version"] is None
    assert fresh["info"]["follows"] == "champion"
    assert requests.get(f"{service.url}/readyz", timeout=120).status_code == 200


def test_a_photo_with_odd_metadata_is_answered(service: Service) -> None:
    for name in ("exif_make_rational_orient6.jpg", "exif_xres_minus1_0_orient6.jpg", "png_ztxt_2mb.png", "photo.heic"):
        response = service.post("predict_image", files=upload(case(name), "photo.jpg"))
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(("brightness", "label"), [(0, "dark"), (128, "grey"), (255, "bright")])
def test_one_image(service: Service, store: Store, brightness: int, label: str) -> None:
    response = service.post("predict_image", files=upload(picture(brightness)))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["class"] == label
    assert list(answer["probabilities"]) == CLASSES
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert (answer["model_version"], answer["run_id"]) == (1, store.run_ids[0])


def test_batch_keeps_the_order_and_mixes_formats_and_sizes(service: Service) -> None:
    files = [
        ("images", ("a.jpg", picture(255, 300, "JPEG"))),
        ("images", ("b.png", picture(0))),
        ("images", ("b.png", picture(128, 17))),
        *(("images", (f"c.{kind}", picture(255, 16, kind))) for kind in ("WEBP", "GIF", "BMP", "TIFF", "AVIF")),
        ("images", ("d.jpg", case("transparent.heic"))),  # white; the content decides
    ]
    answer = service.post("predict_batch", files=files).json()
    assert [one["class"] for one in answer["predictions"]] == ["bright", "dark", "grey", *["bright"] * 6]
    assert answer["model_version"] == 1


def test_an_image_is_taken_in_each_form(service: Service) -> None:
    data = picture(255, 20)
    encoded = base64.b64encode(data).decode()
    headers = {"content-type": "image/png"}
    answers = [
        service.post("predict_image", files=upload(data)),
        service.post("predict_image", data=data, headers=headers),
        service.post("predict_image", data=data, headers={"content-type": "application/octet-stream"}),
        service.post("predict_image", json={"image": encoded}),
        service.post("predict_image", json={"image": f"data:image/png;base64,{encoded}"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert len({answer.text for answer in answers}) == 1
    several = service.post("predict_batch", json={"images": [encoded, base64.b64encode(picture(0)).decode()]}).json()
    assert [one["class"] for one in several["predictions"]] == ["bright", "dark"]


def test_a_bad_image_is_refused_in_each_form(service: Service) -> None:
    for kind in ("image/png", "application/octet-stream"):
        response = service.post("predict_image", data=b"no image", headers={"content-type": kind})
        refused(response, 400, "the body: 8 bytes that begin with")
    refused(service.post("predict_image", json={"image": "aGVsbG8="}), 400, "image[0]: 5 bytes that begin with")
    mixed = {"images": [base64.b64encode(picture(0)).decode(), "aGVsbG8="]}
    refused(service.post("predict_batch", json=mixed), 400, "images[1]: 5 bytes that begin with")
    too_large = b"0" * (3 * MEBIBYTE)
    for headers in ({"content-type": "image/png"}, {"content-type": "application/json"}):
        refused(service.post("predict_image", data=too_large, headers=headers), 413, "larger than 2 MiB")


def test_many_large_images_are_refused_by_their_pixels(service: Service) -> None:
    large = picture(7, 8192)  # 67 million pixels in 84 kB
    files = [("images", ("a.png", large))] * 5
    text = "335544320 pixels or more together, over 268435456 (SERVING_MAX_REQUEST_MEGAPIXELS=256)"
    refused(service.post("predict_batch", files=files), 413, text)


def test_one_image_of_the_largest_size_is_answered(service: Service) -> None:
    response = service.post("predict_image", files=upload(picture(255, 8192)))
    assert (response.status_code, response.json()["class"]) == (200, "bright"), response.text


def test_a_url_is_never_fetched(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.png"
        refused(service.post("predict_image", json={"image": url}), 400, "is a URL, and none is fetched")
        refused(service.post("predict_batch", json={"images": [url]}), 400, "is a URL, and none is fetched")
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_health_and_info(service: Service, store: Store) -> None:
    health = service.post("health")
    assert (health.status_code, health.json()) == (200, {"status": "serving", "model_version": 1})
    info = service.info()
    assert info["registered_model"] == MODEL
    assert (info["classes"], info["input"], info["problem"]) == (CLASSES, [1, 8, 8], None)
    assert info["run_id"] == store.run_ids[0]
    assert service.post("get_model_info", data=b"no form", headers={"content-type": "multipart/form-data"}).ok


def test_parallel_requests_each_get_their_own_answer(service: Service) -> None:
    wanted = [(value, label) for value, label in [(0, "dark"), (128, "grey"), (255, "bright")] * 20]
    with ThreadPoolExecutor(8) as pool:
        responses = pool.map(lambda one: service.post("predict_image", files=upload(picture(one[0]))), wanted)
        answers = [response.json() for response in responses]
    assert [answer["class"] for answer in answers] == [label for _, label in wanted]


def test_follows_the_alias_without_dropping_a_request(service: Service, store: Store) -> None:
    answers: list[tuple[int, str, int]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            response = service.post("predict_image", files=upload(picture(0)))
            answers.append((response.status_code, response.json()["class"], response.json()["model_version"]))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        store.promote(2)
        until(lambda: service.info().get("model_version") == 2)
        until(lambda: bool(answers) and answers[-1][2] == 2)
        stop.set()
        for one in asking:
            one.result()
    assert set(answers) == {(200, "dark", 1), (200, "bright", 2)}


def test_keeps_the_model_when_the_new_one_cannot_be_served(service: Service, store: Store) -> None:
    with new_run() as run:
        mlflow.log_dict({"no": "model"}, "model/MLmodel")
    version = registry.create_version(MODEL, f"runs:/{run.info.run_id}/model", run.info.run_id, {}, "")
    store.promote(int(version.version))
    until(lambda: service.info().get("problem") is not None)
    assert f"version {version.version} cannot be served" in str(service.info()["problem"])
    assert service.post("predict_image", files=upload(picture(0))).json()["model_version"] == 1
    store.promote(1)
    until(lambda: service.info().get("problem", "starting") is None)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def huge_png() -> bytes:
    """A PNG whose header declares 60000 x 60000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    )


def photo() -> bytes:
    data = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(data, "JPEG")
    return data.getvalue()


BAD_IMAGES = {
    "text": (b"hello, I am no image", f"not a {NAMES}"),
    "empty": (b"", "empty"),
    "jpeg 2000": (picture(0, file_format="JPEG2000"), f"not a {NAMES}"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>", f"not a {NAMES}"),
    "truncated gif": (cut(picture(9, 200, "GIF")), "cut short"),
    "truncated jpeg": (cut(photo()), "cut short"),
    "truncated png": (cut(picture(9, 200)), "cut short"),
    "absurd dimensions": (huge_png(), "pixels"),
}


def refused(response: requests.Response, status: int, text: str) -> None:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    line = response.json()["error"]
    assert text in line
    assert "\n" not in line


@pytest.mark.parametrize("case", BAD_IMAGES)
@pytest.mark.parametrize(("path", "field"), [("predict_image", "image"), ("predict_batch", "images")])
def test_refuses_a_bad_image(service: Service, path: str, field: str, case: str) -> None:
    data, text = BAD_IMAGES[case]
    response = service.post(path, files={field: ("bad.png", data, "image/png")})
    refused(response, 413 if case == "absurd dimensions" else 400, text)
    assert f"{field}[0] 'bad.png'" in response.json()["error"]


def test_names_the_bad_image_of_a_batch(service: Service) -> None:
    files = [("images", ("good.png", picture(0))), ("images", ("bad.gif", b"GIF89a"))]
    refused(service.post("predict_batch", files=files), 400, "images[1] 'bad.gif'")


def test_refuses_a_wrong_form(service: Service) -> None:
    good = picture(0)
    refused(service.post("predict_image", files={"file": good}), 400, "'image' is missing (fields sent: file)")
    refused(service.post("predict_image", files={"image": (None, "http://127.0.0.1/x.png")}), 400, "text, not a file")
    refused(service.post("predict_image", files=[("image", good), ("image", good)]), 400, "send one")
    refused(service.post("predict_batch", files={"other": good}), 400, "'images' is missing")
    refused(service.post("predict_batch", files=[("images", good)] * 129), 400, "more than 128 fields")
    refused(service.post("predict_image", data=good), 415, "curl -F image=@")
    refused(service.post("predict_image"), 415, "multipart/form-data")
    pickled = {"content-type": "application/vnd.bentoml+pickle"}
    assert service.post("predict_image", data=b"\x80\x04.", headers=pickled).status_code == 415


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b"no boundary here"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken header\r\n\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nP\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b""),
    ],
)
def test_refuses_a_malformed_form(service: Service, kind: str, body: bytes) -> None:
    response = service.post("predict_image", data=body, headers={"content-type": kind})
    refused(response, 400, "send")


def zeros(mebibytes: int) -> Iterator[bytes]:
    block = b"\0" * MEBIBYTE
    for _ in range(mebibytes):
        yield block


def test_refuses_a_gigabyte_in_chunks_without_keeping_it(service: Service) -> None:
    before = service.memory()
    form = {"content-type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="big.png"\r\n\r\n'

    def body() -> Iterator[bytes]:
        yield head
        yield from zeros(1024)

    refused(service.post("predict_image", data=body(), headers=form), 413, "larger than 2 MiB")
    assert service.memory() - before < 32 * MEBIBYTE
    assert service.post("predict_image", files=upload(picture(0))).status_code == 200


def test_refuses_a_declared_gigabyte_before_it_comes(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(
            b"POST /predict_image HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 1073741824\r\n\r\n--x\r\n"
        )
        answer = b""
        while not answer.endswith(b"}"):
            received = connection.recv(4096)
            assert received, f"the service closed the connection after {answer!r}"
            answer += received
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 2 MiB" in answer


def test_accepts_up_to_the_limit(service: Service) -> None:
    padded = picture(0) + b"\0" * (2 * MEBIBYTE - 4096)  # decoders ignore what follows the image
    assert service.post("predict_image", files=upload(padded)).status_code == 200
    refused(service.post("predict_image", files=upload(padded + b"\0" * 8192)), 413, "SERVING_MAX_UPLOAD_MB")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "predict_image", "POST"), ("PUT", "predict_batch", "POST"), ("POST", "metrics", "GET, HEAD")],
)
def test_refuses_another_method(service: Service, method: str, path: str, allowed: str) -> None:
    response = requests.request(method, f"{service.url}/{path}", timeout=120)
    refused(response, 405, f"send {allowed}")
    assert response.headers["Allow"] == allowed


def test_refuses_a_form_of_many_fields(service: Service) -> None:
    fields = {f"field{number}": (None, "x") for number in range(200)}
    refused(service.post("predict_image", files=fields), 400, "more than 128 fields")
    refused(service.post("predict_image", files={"image": (None, "x" * (MEBIBYTE * 3 // 2))}), 400, "text, not a file")


def half_an_upload(service: Service) -> socket.socket:
    """A connection that has sent the first half of a form and says no more."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=120)
    connection.sendall(
        b"POST /predict_image HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 100000\r\n\r\n--x\r\n"
        b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\nhalf a picture'
    )
    return connection


def test_slow_clients_keep_nobody_waiting_and_one_that_goes_is_no_fault_of_ours(service: Service) -> None:
    slow = [half_an_upload(service) for _ in range(REQUESTS + 10)]
    try:
        assert service.post("predict_image", files=upload(picture(0))).status_code == 200
    finally:
        for connection in slow:
            connection.close()
    in_progress = 'serving_request_in_progress{endpoint="/predict_image"'

    def over() -> bool:
        lines = requests.get(f"{service.url}/metrics", timeout=120).text.splitlines()
        return all(float(line.rpartition(" ")[2]) == 0 for line in lines if line.startswith(in_progress))

    until(over)
    lines = requests.get(f"{service.url}/metrics", timeout=120).text.splitlines()
    failed = [line for line in lines if line.startswith("serving_request_total") and 'code="500"' in line]
    assert sum(float(line.rpartition(" ")[2]) for line in failed) == 0


def test_refuses_more_than_it_can_do_and_answers_the_rest(service: Service) -> None:
    large = picture(255, 4000)  # tens of milliseconds of decoding, in few bytes
    count = (1 + WORKERS) * REQUESTS  # each worker takes so many at a time
    together = threading.Barrier(count + 1)

    def ask() -> requests.Response:
        together.wait(600)
        return service.post("predict_image", files=upload(large))

    def refused_some() -> list[requests.Response]:
        with ThreadPoolExecutor(count) as pool:
            asked = [pool.submit(ask) for _ in range(count)]
            together.wait(600)
            probes = {requests.get(f"{service.url}/{path}", timeout=120).status_code for path in ("livez", "readyz")}
            assert service.info()["model_version"] == 1
            responses = [one.result() for one in asked]
        assert probes == {200}
        answered = [response for response in responses if response.status_code == 200]
        assert len(answered) >= REQUESTS
        assert {response.json()["class"] for response in answered} == {"bright"}
        return [response for response in responses if response.status_code != 200]

    # Clients that get too little of the processors are no more than the service can answer: then once more.
    for response in until(refused_some):
        refused(response, 503, "try again in a second")
        assert response.headers["Retry-After"] == "1"
    assert service.post("predict_image", files=upload(picture(0))).status_code == 200
