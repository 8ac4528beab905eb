"""Where weights can come from: an installed package, a run in MLflow, a version in the registry, a file, or S3.

Each has one name, which a person can read and which always leads to the same file or to an error: that is what a run
records as its source, and what a retry goes by.
"""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mlflow.environment_variables import MLFLOW_S3_ENDPOINT_URL

from tasks.contract.networks import NETWORKS, NOT_STATED, find
from tasks.contract.recipe import SUFFIXES
from tasks.errors import DataError, RequestError
from tasks.files import sha256
from tasks.records import weights_store
from tasks.records.inputs import model_weights

SCHEME = re.compile(r"[A-Za-z][\w+.-]*:/")
STORED = re.compile(r"run (\w+) \((.*)\)", re.DOTALL)
PACKAGE = re.compile(r"package (\S+) \S+")
FORMS = f"a file ({', '.join(SUFFIXES)}), s3://BUCKET/KEY, models:/NAME@ALIAS or models:/NAME/VERSION"


class About(NamedTuple):
    """What a source says about its weights."""

    sha256: str  # of the file
    licence: str = NOT_STATED
    network: str | None = None  # None: it does not say which


def packaged(network: str) -> str | None:
    """Name the installed package that holds the weights of a network; None where there is none."""
    package = find(network).package
    if not package or _file_of(package) is None:
        return None
    return f"package {package} {importlib.metadata.version(package)}"


def stored(network: str, experiment_id: str) -> str | None:
    """Name the weights that `make weights` stored last for a network; None where there are none."""
    found = weights_store.newest(network, experiment_id) if find(network).family == "timm" else None
    return f"run {found.run_id} ({found.source})" if found else None


def named(asked: str) -> str:
    """Name what a request means: a version where it says an alias, a path that does not depend on a working directory.

    Raises:
        RequestError: weights cannot come from there.
        DataError: there is no such file.
        ModelError: there is no such alias or version.
    """
    if asked.startswith("models:"):
        return model_weights.named(asked)
    name = asked.removeprefix("file://")
    if not name.startswith("s3://"):
        if SCHEME.match(name):
            raise RequestError(f"cannot be opened; give {FORMS}")
        if not Path(name).is_file():
            raise DataError("no such file where this stage runs; on Docker and Kubernetes give an s3:// address")
        name = str(Path(name).resolve())
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        raise RequestError(f"not a file with weights; give {FORMS}")
    return name


def about(source: str) -> About:
    """Read what a source says; a file that lies elsewhere is downloaded for its digest.

    Raises:
        DataError: it is gone.
        ModelError: it was kept in MLflow, and is gone or changed.
        SettingsError: the S3 store refuses the credentials.
        UnavailableError: the S3 store does not answer.
    """
    if match := STORED.fullmatch(source):
        kept = weights_store.read(match[1])
        return About(kept.sha256, kept.licence, kept.network)
    if source.startswith("models:"):
        return About(*model_weights.about(source))
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        digest = sha256(file(source, Path(folder)))
    if match := PACKAGE.fullmatch(source):
        for network, entry in NETWORKS.items():
            if entry.package == match[1]:
                return About(digest, entry.weights_licence, network)
    return About(digest)


def file(source: str, folder: Path) -> Path:
    """Return the file of a source, downloaded into `folder` unless it lies on this machine.

    Raises:
        PipelineError: as for `about`.
    """
    if match := STORED.fullmatch(source):
        return weights_store.fetch(match[1], folder)
    if source.startswith("models:"):
        return model_weights.fetch(source, folder)
    if source.startswith("s3://"):
        from tasks.vision.data import s3  # boto3 takes half a second

        return s3.download(source, folder, MLFLOW_S3_ENDPOINT_URL.get())  # type: ignore[no-untyped-call]  # as prepare
    match = PACKAGE.fullmatch(source)
    path = _file_of(match[1]) if match else Path(source)
    if path is None or not path.is_file():
        raise DataError(f"the weights from {source} are gone; start a new run with others")
    return path


def _file_of(package: str) -> Path | None:
    """Return the file with weights that a package holds, without importing it; None where it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix in SUFFIXES), None)
