"""Asks MLflow once which model a reference names right now."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.request_utils import _cached_get_request_session

from tasks.errors import ModelError
from tasks.records import artifact_digest, queries, registry, removed_weights
from tasks.records.onnx_forms import OnnxForm
from tasks.records.tracking import http_status
from tasks.records.transient_errors import answered_by_another
from tasks.serving.model_reference import MODEL_PATH, Kind, Reference, Target


def resolve(reference: Reference) -> Target:
    """Ask MLflow which model `reference` names right now.

    Raises:
        ModelError: it names none (yet).
        UnavailableError: something else answers in MLflow's place.
        MlflowException: MLflow does not answer, or refuses.
    """
    _require_database()
    try:
        return _ask(reference)
    except MlflowException as error:
        if (another := answered_by_another(error)) is None:
            raise
        # A kept connection would lead there for good: in a cluster, out to the internet if it was opened before the
        # Service's rules existed. MLflow's client has no public way to close it.
        _cached_get_request_session.cache_clear()
        raise another from error


def _ask(reference: Reference) -> Target:
    name = reference.registered_model
    client = MlflowClient()
    match reference.kind:
        case Kind.ALIAS:
            version = registry.by_alias(name, reference.name)
            if version is None:
                raise ModelError(f"{name!r} has no {reference.name!r} yet; run the pipeline, or correct SERVING_MODEL")
        case Kind.VERSION:
            version = registry.by_number(name, int(reference.name))
        case Kind.STAGE:
            found = client.get_latest_versions(name, stages=[reference.name])
            if not found:
                raise ModelError(f"{name!r} has no version in stage {reference.name!r}; serve an alias instead")
            version = found[0]
        case Kind.LOGGED_MODEL:
            return _logged_model(client, reference.name)
        case Kind.RUN | Kind.RUN_PATH:
            return _run(client, reference)
    return of_version(version)


def of_version(version: ModelVersion) -> Target:
    """Name what to serve of a version: its logged model, or the ONNX form that was exported for it later.

    Raises:
        ModelError: its weights were removed.
    """
    removed_weights.require(version.tags, f"version {version.version} of {version.name!r}", "serve another version")
    exported = OnnxForm.of(version)
    return Target(
        exported.uri if exported else f"models:/{version.name}/{version.version}",
        version.name,
        int(version.version),
        version.run_id,
        exported.artifact_sha256 if exported else version.tags.get(artifact_digest.TAG),
        version.tags.get("pipeline.evaluate_run_id"),
    )


def _run(client: MlflowClient, reference: Reference) -> Target:
    run_id = reference.name
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if http_status(error) != 404:
            raise
        raise ModelError(f"MLflow has no run {run_id!r}; correct SERVING_MODEL") from error
    uri = f"runs:/{run_id}/{reference.path}"
    # Answers name the version of a run that was registered.
    newest = queries.newest_version_of_run(reference.registered_model, run_id)
    if newest is None:
        return Target(uri, None, None, run_id)
    exported = OnnxForm.of(newest) if reference.path == MODEL_PATH else None
    if exported is not None:
        return Target(exported.uri, newest.name, int(newest.version), run_id, exported.artifact_sha256)
    return Target(uri, newest.name, int(newest.version), run_id)


def _logged_model(client: MlflowClient, model_id: str) -> Target:
    try:
        model = client.get_logged_model(model_id)
    except MlflowException as error:
        if http_status(error) != 404:
            raise
        raise ModelError(f"MLflow has no logged model {model_id!r}; correct SERVING_MODEL") from error
    return Target(f"models:/{model_id}", None, None, model.source_run_id)


def _require_database() -> None:
    """Let only stages create a SQLite store: two processes that migrate one at the same time break it."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise ModelError(f"there is no MLflow database at {uri} yet; run the pipeline")
