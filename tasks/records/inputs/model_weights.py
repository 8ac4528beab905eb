"""The weights of a version in the model registry, for a training that starts from one's own model."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.contract.networks import NOT_STATED
from tasks.errors import ModelError, RequestError
from tasks.files import sha256
from tasks.records import artifact_digest, registry, removed_weights, weights_store
from tasks.records.compressed_models import Compression
from tasks.records.tracking import http_status, tag_of
from tasks.records.transient_errors import as_unavailable

URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[1-9][0-9]*))")


def named(uri: str) -> str:
    """Return the URI of the version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means now.

    Raises:
        RequestError: the URI has another form.
        ModelError: there is no such version or alias.
    """
    found = URI.fullmatch(uri)
    if found is None:
        raise RequestError("not a version in the registry; give models:/NAME@ALIAS or models:/NAME/VERSION")
    name = found["name"]
    if found["version"]:
        number = registry.by_number(name, int(found["version"])).version
    elif (version := registry.by_alias(name, found["alias"])) is not None:
        number = version.version
    else:
        raise ModelError(f"{name!r} has no alias {found['alias']!r}; see the Models page of MLflow for those it has")
    return f"models:/{name}/{number}"


def about(uri: str) -> tuple[str, str, str]:
    """Return the digest of a version's file with weights, the licence of what it started from, and its network.

    Raises:
        ModelError: this pipeline did not register the version, or its files were changed or are gone.
    """
    version = _version(uri)
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        path = fetch(uri, Path(folder))
        metadata = mlflow.models.Model.load(str(path.parents[1])).metadata or {}
        network = metadata.get("architecture")
        if network is None:
            raise ModelError(f"{uri} does not say which network it is; give a version that this pipeline registered")
        return sha256(path), _licence(version.run_id), str(network)


def fetch(uri: str, folder: Path) -> Path:
    """Download a version into `folder`, check all its files, and return the one with the weights.

    For a version that was quantized or pruned these are the weights of the model before, checked by its digest:
    integers cannot be trained further, and a network of fewer channels is not the one that a training asks for by name.

    Args:
        uri: `models:/NAME/VERSION`.
        folder: an empty one; whatever else lay there would count as a file of the version.

    Raises:
        ModelError: as for `about`; the message names the run whose files they are, if that is not the version's own.
        DataError: the run that trained a compressed version is gone.
    """
    tags = _version(uri).tags
    removed_weights.require(tags, uri, "give another version")
    compression = Compression.in_tags(tags)
    if compression is None or compression.has_network:
        what, source, expected = uri, uri, tags.get(artifact_digest.TAG)
    else:
        what = f"the model of run {compression.train_run_id}, from which {uri} was made,"
        names = ("pipeline.logged_model_uri", artifact_digest.TAG)
        source, expected = (tag_of(compression.train_run_id, name) for name in names)
    if expected is None:
        raise ModelError(f"{uri} has no tag {artifact_digest.TAG!r}; give a version that this pipeline registered")
    try:
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        if as_unavailable(error) is not None:
            raise
        raise ModelError(f"the files of {what} are gone from MLflow's store; give another version") from error
    artifact_digest.require(path, expected, what)
    found = sorted((path / "data").glob("*.pt2"))
    if len(found) != 1:
        raise ModelError(f"{uri} holds {len(found)} exported programs instead of one; give another version")
    return found[0]


def _licence(train_run_id: str | None) -> str:
    """Return the licence of the weights that the version's own training started from."""
    try:
        tags = MlflowClient().get_run(train_run_id).data.tags if train_run_id else {}
    except MlflowException as error:
        if http_status(error) != 404:
            raise
        tags = {}
    return str(tags.get(weights_store.LICENCE, NOT_STATED))


def _version(uri: str) -> ModelVersion:
    found = URI.fullmatch(uri)
    if found is None or found["version"] is None:
        raise RequestError(f"{uri!r} is not a version; give models:/NAME/VERSION")
    return registry.by_number(found["name"], int(found["version"]))
