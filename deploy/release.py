"""The release that runs: its commit, its images, and its files, kept so that it can be started again.

Standard library only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy import engine, up
from deploy.env_file import ROOT
from deploy.errors import CANNOT_CREATE, DeployError
from deploy.kept_record import KeptRecord
from images import declared

CONTAINER = '{{.Config.Image}} {{.Image}} {{index .Config.Labels "com.docker.compose.service"}}'
COMMIT = '{{index .Config.Labels "org.opencontainers.image.revision"}}'


@dataclass(frozen=True)
class Release(KeptRecord):
    """What runs of a stack."""

    commit: str
    images: dict[str, str]
    """ID of each image of the project, by name and tag."""
    services: list[str]
    """Those of docker-compose-mlops.yml that run."""

    def tag_images(self) -> None:
        """Give each image its name and tag again."""
        for name, image in self.images.items():
            engine.output(["docker", "tag", image, name])


def running(values: Mapping[str, str]) -> Release:
    """Return the release that runs; its commit is the one that MLflow's image was built from.

    Raises:
        DeployError: MLflow does not run, or its image does not name a commit.
        OSError: no engine answers.
    """
    found = [line.split(" ") for project in engine.projects(values) for line in engine.containers(project, CONTAINER)]
    wanted = names(values)
    mlflow = [(name, image) for name, image, service in found if service == "mlflow"]
    if not mlflow:
        raise DeployError("MLflow does not run; start the stack (make up) with the release that it is of")
    if mlflow[0][0] != wanted["mlflow"]:
        raise DeployError(
            f"MLflow runs image {mlflow[0][0]} and .env names {wanted['mlflow']}; set PIPELINE_IMAGE_PREFIX and "
            "PIPELINE_IMAGE_TAG back: the new images get the same names"
        )
    commit = commit_of(mlflow[0][1])
    if not commit:
        raise DeployError(f"image {mlflow[0][0]} names no commit, so that there is no way back to it")
    images = {name: image for name, image, _ in found if name in wanted.values()}
    for name in set(wanted.values()) - set(images):  # those of stages
        if there := engine.output(["docker", "images", "--quiet", "--no-trunc", name]).split():
            images[name] = there[0]
    return Release(commit, images, sorted(engine.services_running(values) - {up.EXPORT}))


def names(values: Mapping[str, str]) -> dict[str, str]:
    """Return the name and tag of each image of the project, as the compose files have them."""
    return {name: f"{prefix(values)}/{name}:{tag(values)}" for name in declared.images()}


def prefix(values: Mapping[str, str]) -> str:
    """Return what the names of images begin with."""
    return values.get("PIPELINE_IMAGE_PREFIX") or "vision-mlops"


def tag(values: Mapping[str, str]) -> str:
    """Return their tag."""
    return values.get("PIPELINE_IMAGE_TAG") or "dev"


def commit_of(image: str) -> str:
    """Return the commit that an image was built from; empty if it names none.

    Raises:
        OSError: there is no such image.
    """
    commit = engine.output(["docker", "image", "inspect", "--format", COMMIT, image])
    return "" if commit in ("<no value>", "unknown") else commit


def commit_here() -> str:
    """Return the commit of this folder.

    Raises:
        DeployError: it is no clone.
    """
    try:
        return engine.output(["git", "-C", str(ROOT), "rev-parse", "HEAD"])
    except OSError as error:
        raise DeployError(f"{error}; upgrade in a clone of the repository") from None


def unpack(commit: str, folder: Path) -> None:
    """Write the files of a commit into a new folder.

    Raises:
        DeployError: this clone does not have the commit, or there is no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive = ["git", "-C", str(ROOT), "archive", "--format=tar", commit]
    with subprocess.Popen(archive, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as sending:  # noqa: S603  # git
        extract = ["tar", "--extract", "--directory", str(folder)]
        done = subprocess.run(extract, stdin=sending.stdout, capture_output=True)  # noqa: S603  # tar
    if sending.returncode != 0:
        raise DeployError(f"this clone does not have commit {commit}, which runs; get it (git fetch --unshallow)")
    if done.returncode != 0:
        raise DeployError(f"{folder} cannot be written ({done.stderr.decode().strip()}); free space", CANNOT_CREATE)
