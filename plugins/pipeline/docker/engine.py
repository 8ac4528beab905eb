"""The calls that a stage makes to a Docker engine, through its socket or a socket proxy that may cut long streams."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

import requests
import urllib3
from docker import APIClient
from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import Mount

from pipeline.operator import log_stream
from pipeline.operator.local_sources import in_container
from tasks.errors import PipelineError, ResultError, SettingsError

RESULT_PATH = "/airflow/xcom/return.json"
REFUSED = 403
LARGEST_RESULT = 1 << 20  # bytes; results are IDs and numbers
TOO_MANY_CPUS = "Range of CPUs"  # what the engine says of a limit over the number that it has
STREAM_CUT = (requests.RequestException, urllib3.exceptions.HTTPError)


def resolve_image(engine: APIClient, name: str) -> tuple[str, str]:
    """Return an image's ID and an immutable reference to it: its digest, or else its ID.

    Raises:
        SettingsError: the engine does not have the image.
    """
    try:
        image = engine.inspect_image(name)
    except ImageNotFound as error:
        raise SettingsError(
            f"the Docker engine has no image {name!r}; run `make images`, or correct PIPELINE_IMAGE_PREFIX and "
            "PIPELINE_IMAGE_TAG"
        ) from error
    digests = image.get("RepoDigests") or [f"{name}@{image['Id']}"]
    return str(image["Id"]), str(digests[0])


def remove(engine: APIClient, container: str) -> None:
    """Remove a container, running or not, with its anonymous volumes; does nothing when it is gone already."""
    try:
        engine.remove_container(container, force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # it is being removed already
            raise


def remove_leftovers(engine: APIClient, key: str, network: str) -> list[str]:
    """Remove the containers that an earlier try of the same task left behind, and return their names.

    Another installation on the same engine may have a task of that key; its network is another one.
    """
    found = engine.containers(all=True, filters={"label": f"pipeline.key={key}", "network": network})
    for container in found:
        remove(engine, container["Id"])
    return [container["Names"][0].lstrip("/") for container in found]


def follow_logs(engine: APIClient, container: str) -> Iterator[str]:
    """Yield a container's output, line by line, until it has ended."""

    def opened(after: log_stream.Moment) -> Iterator[bytes]:
        options: dict[str, Any] = {"stream": True, "follow": True, "timestamps": True}
        if after != log_stream.BEGINNING:
            options["since"] = after[0]
        return iter(engine.logs(container, **options))

    def running() -> bool:
        return bool(engine.inspect_container(container)["State"]["Running"])

    return log_stream.follow(opened, running, STREAM_CUT)


def fetch_result(engine: APIClient, container: str) -> bytes | None:
    """Read the result file of a container that has ended; None when there is none.

    Raises:
        ResultError: it is not a file, or too large.
    """
    try:
        chunks, about = engine.get_archive(container, RESULT_PATH)
    except NotFound:
        return None
    # Always read to the end: the engine cannot remove the container until the archive has been read.
    small = about["size"] <= LARGEST_RESULT
    taken = b"".join(chunk for chunk in chunks if small)
    if not small:
        raise ResultError(f"{RESULT_PATH} has {about['size']} bytes; a result has at most {LARGEST_RESULT}")
    with tarfile.open(fileobj=io.BytesIO(taken)) as archive:
        member = archive.next()
        file = archive.extractfile(member) if member is not None and member.isfile() else None
        if file is None:
            raise ResultError(f"{RESULT_PATH} is not a file; the stage must write its JSON result there")
        return file.read()


def read_only(folders: Iterable[str]) -> list[Mount]:
    """Mount folders of the engine's machine, with all that is in them, each at its place under `/sources`."""
    return [
        Mount(target=in_container(folder), source=folder, type="bind", read_only=True) for folder in sorted(folders)
    ]


def refused(error: APIError) -> SettingsError:
    """Turn a call that the socket proxy does not pass on into one line with the fix."""
    return SettingsError(
        f"{error.explanation}; the proxy has its settings from its own start: after a change of .env, run `make up`"
    )


def explain(error: APIError, job_image: str, network: str) -> PipelineError:
    """Turn the engine's error at creating or starting a container into one line with the fix."""
    text = str(error.explanation or error)
    if error.status_code == REFUSED:
        return refused(error)
    if "bind source path does not exist" in text:
        return SettingsError(f"PIPELINE_SOURCE_ROOTS names a folder that the Docker engine's machine lacks: {text}")
    if f"network {network}" in text:
        return SettingsError(
            f"the Docker engine has no network {network!r}; start the stack (docker compose up), "
            "or correct PIPELINE_DOCKER_NETWORK"
        )
    if "could not select device driver" in text or "Minimum memory limit" in text:
        return SettingsError(f"the Docker engine cannot provide what PIPELINE_RESOURCES asks for: {text}")
    return PipelineError(f"the Docker engine did not start {job_image!r}: {text}")
