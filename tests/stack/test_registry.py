"""Images by digest, with a real registry: others' are fetched so, ours pulled and tagged without a new build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from images import registry
from images.declared import images
from images.third_party import LIST, FetchError, ThirdParty, fetch, fetch_all
from tests.waiting import until

from .conftest import ROOT

pytestmark = pytest.mark.docker
CONTAINER = "vm-test-registry"
NOWHERE = f"sha256:{'0' * 64}"


def docker(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["docker", *arguments], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def python_images(command: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `python3 -m images`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")} | variables
    started = [sys.executable, "-m", "images", command, *arguments]
    return subprocess.run(started, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """A registry's host and port; what the tests give names on it is removed from the engine afterwards."""
    docker("build", "--quiet", "--tag", "vm-test/registry:dev", str(Path(__file__).parent / "registry"))
    subprocess.run(["docker", "rm", "--force", CONTAINER], capture_output=True)
    try:
        docker("run", "--detach", "--name", CONTAINER, "--publish", "127.0.0.1::5000", "vm-test/registry:dev")
        address = docker("port", CONTAINER, "5000/tcp")
        until(lambda: subprocess.run(["curl", "-fs", f"http://{address}/v2/"], capture_output=True).returncode == 0, 60)
        yield address
    finally:
        docker("rm", "--force", "--volumes", CONTAINER)
        for pattern in ("127.0.0.1:*/vm/*", "127.0.0.1:*/other/*", "vm-test-pulled/*"):
            if found := {*docker("images", "--quiet", "--filter", f"reference={pattern}").split()}:
                docker("rmi", "--force", *found)


def build(name: str, content: str) -> str:
    """Build an image of a few bytes; return its ID."""
    dockerfile = f"FROM debian:bookworm-slim\nRUN echo {content} >/content\n"
    return docker("build", "--quiet", "--tag", name, "-", text=dockerfile)


def image_id(name: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", name)


@pytest.fixture(scope="module")
def other(host: str) -> ThirdParty:
    """An image of others with a digest, in its registry; the tag has moved on to another image since."""
    name = f"{host}/other/server:1"
    build(name, "first")
    docker("push", "--quiet", name)
    digest = registry.digest_of(name)
    build(name, "second")
    docker("push", "--quiet", name)
    assert registry.digest_of(name) != digest
    return ThirdParty(name, "SERVER_IMAGE", digest)


@pytest.fixture
def absent(other: ThirdParty) -> ThirdParty:
    subprocess.run(["docker", "rmi", "--force", other.name, other.pinned], capture_output=True)
    return other


def content(name: str) -> str:
    return docker("run", "--rm", "--network", "none", name, "cat", "/content")


def test_an_image_of_others_is_fetched_by_digest_and_found_by_its_tag(absent: ThirdParty) -> None:
    assert fetch(absent) == absent.pinned
    assert content(absent.name) == "first"
    assert fetch(absent) == absent.pinned


def test_without_a_digest_the_tag_is_left_to_compose(absent: ThirdParty) -> None:
    bare = replace(absent, digest="")
    assert fetch(bare) == bare.name
    assert subprocess.run(["docker", "image", "inspect", bare.name], capture_output=True).returncode != 0


def test_what_was_pulled_by_tag_is_replaced_by_what_the_list_names(absent: ThirdParty) -> None:
    docker("pull", "--quiet", absent.name)
    assert content(absent.name) == "second"
    assert fetch(absent) == absent.pinned
    assert content(absent.name) == "first"


def test_what_was_built_here_stays(absent: ThirdParty) -> None:
    """Such as a stand-in for tests, or an image that was loaded from a file."""
    build(absent.name, "mine")
    assert fetch(absent) == absent.name
    assert content(absent.name) == "mine"


def test_an_image_that_cannot_be_had_is_an_error_unless_one_is_here(
    absent: ThirdParty, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = replace(absent, digest=NOWHERE)
    with pytest.raises(FetchError, match=NOWHERE):
        fetch(gone)
    docker("pull", "--quiet", absent.name)
    assert fetch(gone) == absent.name
    assert f"is here with another digest, and {NOWHERE} cannot be had" in capsys.readouterr().err


def test_only_what_the_list_names_is_fetched(other: ThirdParty) -> None:
    subprocess.run(["docker", "rmi", "--force", other.name, other.pinned], capture_output=True)
    fetch_all(["vision-mlops/mlflow:dev", other.name])
    assert subprocess.run(["docker", "image", "inspect", other.name], capture_output=True).returncode != 0


def listed(folder: Path, image: ThirdParty) -> Path:
    file = folder / LIST
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'[[image]]\nname = "{image.name}"\nvariable = "{image.variable}"\ndigest = "{image.digest}"\n')
    return file


def test_the_list_is_compared_with_the_registry(
    other: ThirdParty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    file, newest = listed(tmp_path, other), registry.digest_of(other.name)
    assert registry.compare(update=False) == registry.FAILED
    assert f"{other.name} is {newest} in its registry; the list has {other.digest}\n" in capsys.readouterr().out
    assert registry.compare(update=True) == 0
    assert f'digest = "{newest}"' in file.read_text()
    assert registry.compare(update=False) == 0
    listed(tmp_path, replace(other, digest=""))
    assert registry.compare(update=False) == registry.FAILED
    assert registry.compare(update=True) == 0
    assert f'digest = "{newest}"' in file.read_text()
    listed(tmp_path, replace(other, name=other.name.replace(":1", ":none")))
    assert registry.compare(update=True) == registry.FAILED


def test_the_images_of_a_release_are_those_that_were_pushed(host: str) -> None:
    """Built and pushed once; another engine pulls them by digest; the release is a tag of the same digest."""
    prefix, candidate = f"{host}/vm", {}
    for name in images():
        tag = f"{prefix}/{name}:candidate"
        candidate[name] = build(tag, name)
        docker("push", "--quiet", tag)
    places = {"PIPELINE_IMAGE_PREFIX": prefix, "PIPELINE_IMAGE_TAG": "candidate"}
    line = python_images("digests", **places).stdout.strip()
    variable, _, text = line.partition("=")
    digests = json.loads(text)
    assert (variable, digests.keys()) == ("PIPELINE_IMAGE_DIGESTS", images().keys())

    for name in images():  # what a later build would leave behind
        build(f"{prefix}/{name}:candidate", f"another-{name}")
        docker("push", "--quiet", f"{prefix}/{name}:candidate")
    theirs = {"PIPELINE_IMAGE_PREFIX": "vm-test-pulled", "PIPELINE_IMAGE_TAG": "dev", variable: text}
    pulled = python_images("pull", "--from", prefix, **theirs)
    assert pulled.returncode == 0, pulled.stderr
    assert {name: image_id(f"vm-test-pulled/{name}:dev") for name in images()} == candidate

    released = python_images("promote", PIPELINE_IMAGE_PREFIX=prefix, PIPELINE_IMAGE_TAG="v1", **{variable: text})
    assert released.returncode == 0, released.stderr
    assert {name: registry.digest_of(f"{prefix}/{name}:v1") for name in images()} == digests


@pytest.mark.parametrize(
    ("digests", "said"),
    [("{", "is not a JSON object"), ("{}", "has no digest of airflow, "), ("[1]", "is not a JSON object")],
)
@pytest.mark.parametrize("command", ["pull", "promote"])
def test_digests_that_are_not_there_are_named_before_anything_is_done(command: str, digests: str, said: str) -> None:
    done = python_images(command, PIPELINE_IMAGE_DIGESTS=digests)
    assert (done.returncode, done.stdout) == (registry.CONFIG, "")
    assert said in done.stderr
