"""Pretrained weights in MLflow: each set is the artifact `weights.safetensors` of a run of its own, by `make weights`.

So they lie where models do, in the object store or under `.local`, and a stage finds them in every runtime without any
other network. The runs belong to no DAG run: neither `make gc` nor a summary looks at them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tasks.contract.networks import NOT_STATED
from tasks.errors import ModelError
from tasks.records.queries import newest_run
from tasks.records.tracking import http_status
from tasks.records.transient_errors import as_unavailable

STAGE = "weights"
FILE = "weights.safetensors"
NETWORK = "pipeline.weights_network"
SOURCE = "pipeline.weights_source"
# On a train run: what it started from, and these two.
STARTED_FROM, RANDOM = "pipeline.weights", "none"
SHA256 = "pipeline.weights_sha256"
LICENCE = "pipeline.weights_licence"


@dataclass(frozen=True)
class StoredWeights:
    """The weights that one run holds."""

    run_id: str
    network: str
    sha256: str  # of the file
    licence: str
    source: str  # where they came from

    @classmethod
    def of(cls, run: Run) -> Self:
        """Read the tags of a run."""
        tags = run.data.tags
        return cls(
            run_id=str(run.info.run_id),
            network=tags.get(NETWORK, ""),
            sha256=tags.get(SHA256, ""),
            licence=tags.get(LICENCE, NOT_STATED),
            source=tags.get(SOURCE, "unknown"),
        )


def newest(network: str, experiment_id: str) -> StoredWeights | None:
    """Return the weights that were stored last for a network, by its name in a request; None if there are none."""
    found = newest_run(experiment_id, {"pipeline.stage": STAGE, NETWORK: network}, status="FINISHED")
    return StoredWeights.of(found) if found else None


def read(run_id: str) -> StoredWeights:
    """Read what a run says about its weights.

    Raises:
        ModelError: there is no such run.
    """
    try:
        return StoredWeights.of(MlflowClient().get_run(run_id))
    except MlflowException as error:
        if http_status(error) != 404:
            raise
        raise ModelError(f"MLflow has no run {run_id!r} any more, which held weights; start a new run") from error


def store(path: Path, network: str, sha256: str, licence: str, source: str, experiment_id: str) -> tuple[str, bool]:
    """Store a file, unless the newest weights of the network are the same; a run left unfinished is finished.

    Args:
        path: a file named `FILE`.
        network: name of the network in a request.
        sha256: digest of the file.
        licence: of the weights.
        source: where they come from, in words.
        experiment_id: MLflow's experiment.

    Returns:
        The ID of the run that holds them, and whether the file had to be written.
    """
    client = MlflowClient()
    tags = {SHA256: sha256, LICENCE: licence, SOURCE: source}
    known = newest_run(experiment_id, {"pipeline.stage": STAGE, NETWORK: network})
    if known and known.data.tags.get(SHA256) == sha256:
        run_id = str(known.info.run_id)
        for name, value in tags.items():
            if known.data.tags.get(name) != value:
                client.set_tag(run_id, name, value)
        if known.info.status == "FINISHED" and FILE in {file.path for file in client.list_artifacts(run_id)}:
            return run_id, False
    else:
        tags |= {"pipeline.stage": STAGE, NETWORK: network}
        run_id = str(client.create_run(experiment_id, tags=tags, run_name=f"weights {network}").info.run_id)
    client.log_artifact(run_id, str(path))
    client.set_terminated(run_id)
    return run_id, True


def fetch(run_id: str, folder: Path) -> Path:
    """Download the file of a run into `folder`.

    Raises:
        ModelError: the run or its file is gone.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=FILE, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        if as_unavailable(error) is not None:
            raise
        raise ModelError(
            f"{FILE} of run {run_id!r} is gone from MLflow's store; store it again with `make weights MODEL=...`"
        ) from error
