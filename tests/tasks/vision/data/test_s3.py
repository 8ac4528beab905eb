"""Downloads from S3, against a small server of our own that speaks the three calls they need."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from tasks.errors import DataError, SettingsError, UnavailableError
from tasks.vision.data import s3
from tasks.vision.data.limits import Limits

OBJECTS = {
    "pets.tar.gz": b"archive" * 100,
    "pets/": b"",
    "pets/train/cat/1.png": b"one",
    "pets/train/dog/a b+c.png": b"two",
    "evil/../../outside.png": b"evil",
    "odd #1?/a#b.png": b"odd",
    "odd #1.zip": b"zip",
    # Folders that are marked by empty objects, before and after the objects in them, and a file that is just empty.
    "marked/train": b"",
    "marked/train-2/cat/1.png": b"other",
    "marked/train/cat": b"",
    "marked/train/cat/1.png": b"one",
    "marked/train/cat/empty.png": b"",
    "marked/zoo/": b"",
    "both/train": b"a file",
    "both/train/1.png": b"a file in it",
} | {f"many/{index:05}.png": b"1" for index in range(1001)}


class Store(BaseHTTPRequestHandler):
    """GET and HEAD of objects and ListObjectsV2 in one bucket, `data`, all users but `bad` may.

    A page has 1,000 keys, as at Amazon; two under `pets/`.
    """

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if "Credential=bad" in self.headers.get("Authorization", ""):
            self.refuse(403, "InvalidAccessKeyId")
        elif bucket == "broken":
            self.refuse(503, "SlowDown")
        elif bucket != "data":
            self.refuse(404, "NoSuchBucket")
        elif not key:
            self.answer(200, self.page(parse_qs(url.query)))
        elif key in OBJECTS:
            self.answer(200, OBJECTS[key])
        else:
            self.refuse(404, "NoSuchKey")

    def page(self, query: dict[str, list[str]]) -> bytes:
        keys = sorted(key for key in OBJECTS if key.startswith(query.get("prefix", [""])[0]))
        start = int(query.get("continuation-token", ["0"])[0])
        size = 2 if query.get("prefix") == ["pets/"] else 1000
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(OBJECTS[key])}</Size></Contents>"
            for key in keys[start : start + size]
        )
        more = start + size < len(keys)
        rest = f"<NextContinuationToken>{start + size}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{rest}{items}</ListBucketResult>".encode()
        )

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "good")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def test_an_archive_is_downloaded(endpoint: str, folder: Path) -> None:
    path = s3.download("s3://data/pets.tar.gz", folder, endpoint)
    assert path.read_bytes() == OBJECTS["pets.tar.gz"]


def test_one_object_is_read(endpoint: str) -> None:
    assert s3.read("s3://data/odd #1?/a#b.png", 3, endpoint) == b"odd"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://data/odd #1.zip", "has 3 bytes, over 2; give a smaller file"),
        ("s3://data/none.csv", "does not exist"),
        ("s3://data/pets/", "is a folder; give a file"),
        ("s3://data", "is a folder; give a file"),
        ("s3:///a.csv", "has no bucket"),
    ],
)
def test_an_object_that_cannot_be_read_is_one_line(endpoint: str, url: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        s3.read(url, 2, endpoint)
    assert "\n" not in str(error.value)


def test_a_prefix_is_downloaded_as_a_folder_over_all_pages(endpoint: str, folder: Path) -> None:
    path = s3.download("s3://data/pets/", folder, endpoint)
    found = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert found == {"train/cat/1.png": b"one", "train/dog/a b+c.png": b"two"}


def found(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_objects_that_mark_folders_are_skipped(endpoint: str, folder: Path) -> None:
    assert found(s3.download("s3://data/marked/", folder, endpoint)) == {
        "train-2/cat/1.png": b"other",
        "train/cat/1.png": b"one",
        "train/cat/empty.png": b"",
    }


def test_a_file_and_a_folder_of_one_name_are_refused(endpoint: str, folder: Path) -> None:
    with pytest.raises(DataError, match=r"'both/train/1.png' and others below it or above it, as a file and a folder"):
        s3.download("s3://data/both/", folder, endpoint)


def test_a_key_may_hold_what_means_something_in_other_addresses(endpoint: str, folder: Path) -> None:
    assert s3.download("s3://data/odd #1.zip", folder, endpoint).read_bytes() == b"zip"
    assert found(s3.download("s3://data/odd #1?/", folder, endpoint))["a#b.png"] == b"odd"


def test_a_prefix_of_over_a_thousand_keys_is_downloaded_whole(endpoint: str, folder: Path) -> None:
    assert len(found(s3.download("s3://data/many/", folder, endpoint))) == 1001


def test_the_suffix_of_one_object_is_kept(endpoint: str, folder: Path) -> None:
    assert s3.download("s3://data/odd #1.zip", folder, endpoint).suffix == ".zip"


def test_boto3_s_own_variable_names_the_endpoint(endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert s3.download("s3://data/pets.tar.gz", folder).stat().st_size == 700


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://data/none.zip", "'s3://data/none.zip' does not exist (404); correct bucket and key"),
        ("s3://data/none/", "'s3://data/none/' holds no objects; correct the prefix"),
        ("s3://nobucket/x.zip", "'s3://nobucket/x.zip' does not exist (404)"),
        ("s3://nobucket/x/", "'s3://nobucket/x/' does not exist (NoSuchBucket)"),
        ("s3://no bucket/x.zip", "'s3://no bucket/x.zip' is not an S3 address"),
        ("s3:///x", "has no bucket; write s3://BUCKET/KEY"),
        ("s3://data/evil/", "which leads out of it"),
    ],
)
def test_what_is_not_there_is_named(endpoint: str, folder: Path, url: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        s3.download(url, folder, endpoint)
    assert says in str(error.value)
    assert not (folder.parent.parent / "outside.png").exists()


@pytest.mark.parametrize("limits", [Limits(entries=1), Limits(total_bytes=4)])
def test_a_prefix_with_too_much_under_it_is_refused(endpoint: str, folder: Path, limits: Limits) -> None:
    with pytest.raises(DataError, match="give a narrower prefix"):
        s3.download("s3://data/pets/", folder, endpoint, limits)


def test_refused_credentials_are_a_matter_of_settings(
    endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "bad")
    with pytest.raises(SettingsError, match=r"may not be read by this user .*AWS_ACCESS_KEY_ID"):
        s3.download("s3://data/pets/", folder, endpoint)


def test_missing_credentials_are_a_matter_of_settings(
    endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SettingsError, match=r"needs credentials .*set AWS_ACCESS_KEY_ID"):
        s3.download("s3://data/pets.tar.gz", folder, endpoint)


def test_an_endpoint_that_is_no_address_is_a_matter_of_settings(folder: Path) -> None:
    with pytest.raises(SettingsError, match="nonsense"):
        s3.download("s3://data/pets.tar.gz", folder, "nonsense")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between boto3's tries."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_away_may_be_tried_again(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"does not answer .*AWS_ENDPOINT_URL"):
            s3.download("s3://data/pets.tar.gz", folder, address)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_fails_may_be_tried_again(endpoint: str, folder: Path) -> None:
    with pytest.raises(UnavailableError, match="reports an error"):
        s3.download("s3://broken/pets/", folder, endpoint)
