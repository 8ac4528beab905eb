"""Requires that a stage made a version champion; an alias can be moved by whoever may edit the registered model."""

from __future__ import annotations

from tasks.errors import ModelError
from tasks.records import artifact_digest, ledger
from tasks.serving.model_reference import Target


def require_promoted(target: Target) -> None:
    """Require that `champion` names a version with the digest of its files, and that the ledger says so.

    Raises:
        ModelError: it has no digest, or the newest move in the ledger is another one.
        MlflowException: MLflow does not answer.
    """
    name, version = target.registered_model, target.version
    if target.artifact_sha256 is None:
        raise ModelError(
            f"it has no digest of its files (tag {artifact_digest.TAG!r}), so no stage registered it; give it an alias "
            "of its own and name that in SERVING_MODEL, or move champion back"
        )
    if name is not None and ledger.is_recorded(name, version):
        return
    raise ModelError(
        "somebody made it champion without a record in the ledger; if it is to be served, "
        f'`make rollback VERSION={version} REASON="..."` writes one, otherwise move champion back'
    )
