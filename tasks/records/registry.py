"""The model registry: versions of one registered model and the aliases `champion` and `challenger`.

An alias is resolved to a version once, and from then on the version is used. (MLflow's version search returns versions
without their aliases, so aliases are always looked up by name.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from tasks.errors import ModelError
from tasks.records import artifact_names, queries, removed_weights, verified_artifacts
from tasks.records.tracking import http_status

CHAMPION = "champion"
CHALLENGER = "challenger"
CLASSES = "classes.json"
SHA256 = "pipeline.model_sha256"  # tag of a version and its runs: digest of architecture and weights


def by_alias(registered_model: str, alias: str = CHAMPION) -> ModelVersion | None:
    """Return the version that an alias points to, or None when the model or the alias does not exist."""
    try:
        return MlflowClient().get_model_version_by_alias(registered_model, alias)
    except MlflowException as error:
        # An unknown alias is answered with 400, an unknown model with 404.
        if http_status(error) in {400, 404}:
            return None
        raise


def by_number(registered_model: str, version: int) -> ModelVersion:
    """Return one version.

    Raises:
        ModelError: there is no such version.
    """
    try:
        return MlflowClient().get_model_version(registered_model, str(version))
    except MlflowException as error:
        if http_status(error) != 404:
            raise
        raise ModelError(
            f"{registered_model!r} has no version {version}; see the Models page of MLflow for those it has"
        ) from error


def by_digest(registered_model: str, model_sha256: str) -> ModelVersion | None:
    """Return the first version whose architecture and weights have this digest, or None.

    One whose weights were removed does not count: a model that was trained again becomes a version of its own.
    """
    found = queries.find_versions(registered_model, {SHA256: model_sha256})
    return next((version for version in found if removed_weights.TAG not in version.tags), None)


def judged_gold(registered_model: str, fingerprint: str) -> dict[str, list[str]]:
    """Return the digests of the gold with this fingerprint on which versions were judged, by their prepare runs.

    Only register writes tags of versions, so these are not what another stage would like them to be.
    """
    tags = {"pipeline.fingerprint": fingerprint, artifact_names.GOLD_SHA256: queries.PRESENT}
    found = queries.find_versions(registered_model, tags)
    return {
        version.tags["pipeline.prepare_run_id"]: version.tags[artifact_names.GOLD_SHA256].split() for version in found
    }


def add_judged_gold(version: ModelVersion, sha256: str) -> None:
    """Note that a version was judged on this gold, too: other bytes can make the same model."""
    known = version.tags.get(artifact_names.GOLD_SHA256, "").split()
    if sha256 not in known:
        MlflowClient().set_model_version_tag(
            version.name, str(version.version), artifact_names.GOLD_SHA256, " ".join([*known, sha256])
        )


def create_version(
    registered_model: str, source: str, train_run_id: str, tags: dict[str, str], description: str
) -> ModelVersion:
    """Create a version of a logged model, and the registered model if this is its first.

    The tags are set in the same request, so a version never exists without its digest.
    """
    client = MlflowClient()
    try:
        client.create_registered_model(registered_model)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    return client.create_model_version(
        registered_model,
        source=source,
        run_id=train_run_id,
        tags=tags,
        description=description,
        model_id=source.removeprefix("models:/") if source.startswith("models:/m-") else None,
    )


def exists(registered_model: str) -> bool:
    """Tell whether there is a registered model of this name."""
    try:
        MlflowClient().get_registered_model(registered_model)
    except MlflowException as error:
        if http_status(error) != 404:
            raise
        return False
    return True


def set_alias(registered_model: str, alias: str, version: int) -> None:
    """Point an alias at a version; nothing is written if it points there already."""
    current = by_alias(registered_model, alias)
    if current is None or int(current.version) != version:
        MlflowClient().set_registered_model_alias(registered_model, alias, str(version))


def delete_alias(registered_model: str, alias: str) -> None:
    """Delete an alias; it is not an error if it does not exist."""
    if by_alias(registered_model, alias) is not None:
        MlflowClient().delete_registered_model_alias(registered_model, alias)


def require_same_classes(registered_model: str, classes: Sequence[str]) -> None:
    """Refuse a candidate whose classes differ from those of the champion that it would replace.

    Raises:
        ModelError: the champion of `registered_model` has other classes than `classes`.
    """
    champion = by_alias(registered_model)
    if champion is None:
        return
    if not champion.run_id:
        raise ModelError(
            f"champion of {registered_model!r}, version {champion.version}, has no run to read its classes from, "
            "because another program created it: give this pipeline a registered_model of its own"
        )
    known = classes_of_run(champion.run_id)
    if known == list(classes):
        return
    raise ModelError(
        f"registered_model={registered_model!r} has a champion (version {champion.version}) for {_short(known)}, "
        f"these data have {_short(classes)}; give this task a registered_model of its own"
    )


def classes_of_run(train_run_id: str, tags: Mapping[str, str] | None = None) -> list[str]:
    """Return the class names of the model of a train run; `tags` are the run's, where the caller has checked them.

    Raises:
        ChangedError: they are not those that train logged.
    """
    fix = 'restore it from a backup, or train again with force=["train"] if it is not the champion\'s'
    return list(json.loads(verified_artifacts.read_text(train_run_id, CLASSES, fix, tags)))


def log_classes(classes: Sequence[str]) -> None:
    """Log the class names of a model to the active run, which trains or compresses it."""
    verified_artifacts.log_texts({CLASSES: json.dumps(list(classes))})


def _short(classes: Sequence[str]) -> str:
    names = ", ".join(list(classes)[:4]) + (", …" if len(classes) > 4 else "")
    return f"{len(classes)} classes ({names})"
