"""Data sets in a real S3 store: an archive, a folder, and what the store says when something is wrong."""

from __future__ import annotations

import secrets
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image

from tasks.errors import DataError, SettingsError, UnavailableError
from tasks.vision.data import bronze
from tasks.vision.data.fingerprint import Shaping
from tasks.vision.data.sources import open_source

pytestmark = pytest.mark.docker
IMAGE = "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"
CONTAINER = "vm-test-s3-source"
READY_SECONDS = 600


@dataclass(frozen=True)
class S3:
    """A running store."""

    endpoint: str
    user: str
    password: str

    def client(self) -> Any:
        return boto3.Session(self.user, self.password, region_name="us-east-1").client(
            "s3", endpoint_url=self.endpoint, config=Config(connect_timeout=2, retries={"total_max_attempts": 1})
        )


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def wait_until_ready(store: S3) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            store.client().create_bucket(Bucket="data")
            return
        except (BotoCoreError, ClientError):
            assert time.monotonic() < deadline, docker("logs", CONTAINER)
            time.sleep(0.5)


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    user, password = "tester", secrets.token_hex(16)
    subprocess.run(["docker", "rm", "--force", CONTAINER], capture_output=True, check=False)
    try:
        variables = ["--env", f"MINIO_ROOT_USER={user}", "--env", f"MINIO_ROOT_PASSWORD={password}"]
        command = ["server", "/data"]  # the official image needs it
        docker("run", "--detach", "--name", CONTAINER, "--publish", "127.0.0.1::9000", *variables, IMAGE, *command)
        running = S3(f"http://{docker('port', CONTAINER, '9000/tcp')}", user, password)
        wait_until_ready(running)
        yield running
    finally:
        docker("rm", "--force", "--volumes", CONTAINER)


@pytest.fixture(scope="module")
def pets(store: S3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set on this disk, and its copies in the store: `pets.tar.gz` and `sets/pets/`."""
    folder = tmp_path_factory.mktemp("s3") / "pets"
    generator = np.random.default_rng(0)
    for label in ("cat", "dög +1"):
        for index in range(3):
            path = folder / "train" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    with tarfile.open(folder.parent / "pets.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname="pets")
    client = store.client()
    client.upload_file(str(folder.parent / "pets.tar.gz"), "data", "pets.tar.gz")
    client.put_object(Bucket="data", Key="sets/pets/", Body=b"")
    for path in folder.rglob("*.png"):
        client.upload_file(str(path), "data", f"sets/pets/{path.relative_to(folder).as_posix()}")
    return folder


@pytest.fixture(autouse=True)
def environment(store: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.user)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.password)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.parametrize(("url", "local"), [("s3://data/pets.tar.gz", "../pets.tar.gz"), ("s3://data/sets/pets/", ".")])
def test_a_source_in_the_store_equals_its_local_copy(pets: Path, tmp_path: Path, url: str, local: str) -> None:
    shaping = Shaping("image_folder", 3, 16, 0.2, 0.2, 0)
    with (
        open_source("image_folder", url, tmp_path) as remote,
        open_source("image_folder", str((pets / local).resolve()), tmp_path) as here,
    ):
        assert remote.digest() == here.digest()
        assert remote.listing.classes == ("cat", "dög +1")
        assert [(r.entry, r.sha256) for r in bronze.read(remote, shaping)] == [
            (r.entry, r.sha256) for r in bronze.read(here, shaping)
        ]
    assert list(tmp_path.iterdir()) == []  # what was downloaded is gone again


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://data/nothing.zip", "'s3://data/nothing.zip' does not exist"),
        ("s3://data/sets/pets", "end a folder with /"),
        ("s3://data/nothing/", "holds no objects"),
        ("s3://no-such-bucket/pets.tar.gz", "'s3://no-such-bucket/pets.tar.gz' does not exist"),
        ("s3://no-such-bucket/pets/", "does not exist (NoSuchBucket)"),
    ],
)
def test_what_is_not_there_is_a_fault_of_the_data(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(DataError) as error, open_source("image_folder", url, tmp_path):
        pass
    assert says in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_a_fault_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "wrong")
    with (
        pytest.raises(SettingsError, match="check AWS_ACCESS_KEY_ID"),
        open_source("image_folder", "s3://data/x/", tmp_path),
    ):
        pass


def test_a_store_that_is_away_may_be_tried_again(tmp_path: Path) -> None:
    away = "http://127.0.0.1:9"  # the discard port, where nothing listens
    with (
        pytest.raises(UnavailableError, match="does not answer"),
        open_source("image_folder", "s3://data/x/", tmp_path, away),
    ):
        pass
