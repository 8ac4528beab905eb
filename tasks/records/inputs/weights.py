"""The weights that a network starts from: found once, known by their digest, and fetched when the training begins.

A file's format is no matter here, and neither is whether its tensors fit the network: `tasks.vision.models` reads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import RunTag

from tasks.contract.networks import NETWORKS, NOT_STATED, find, same_network
from tasks.contract.recipe import AUTO, NONE, PRETRAINED
from tasks.errors import DataError, PipelineError, RequestError
from tasks.files import sha256
from tasks.records import weights_store
from tasks.records.inputs import weights_sources
from tasks.records.tracking import StageRun
from tasks.records.weights_store import RANDOM, STARTED_FROM

BY_NETWORK = "pipeline.weights_by_network"  # tag of a tune run, JSON: source and digest for each network, or null

log = logging.getLogger("tasks.train")


@dataclass(frozen=True)
class Weights:
    """Weights that a training starts from.

    Attributes:
        source: where they are, as a person reads it: "package NAME VERSION", "run ID (hub NAME)", "models:/NAME/3", a
            path, or "s3://BUCKET/KEY".
        sha256: digest of the file; for a version in the registry, of the file with its weights.
        licence: of the weights; `not stated` if unknown.
        network: the network they are for, by its name in a request; None where nothing says it.
    """

    source: str
    sha256: str
    licence: str = NOT_STATED
    network: str | None = None

    @property
    def identity(self) -> list[str]:
        """Digest and licence: what a result depends on."""
        return [self.sha256, self.licence]

    def fetch(self, folder: Path) -> Path:
        """Return the file, downloaded into `folder` unless it lies on this machine.

        Raises:
            DataError: it is gone, or not the same any more.
            ModelError: it is a stored model, or a file in MLflow, and gone or changed.
            UnavailableError: the store does not answer.
        """
        path = weights_sources.file(self.source, folder)
        found = sha256(path)
        if found != self.sha256:
            raise DataError(
                f"the weights {path.name} from {self.source} changed since this run began (SHA-256 {found[:12]}..., "
                f"then {self.sha256[:12]}...); start a new run to train with them"
            )
        return path


def resolve(asked: str, network: str, run: StageRun) -> Weights | None:
    """Find the weights for a training; None means random ones. Nothing is written.

    A retry gets what its first try got: the same file, or none.

    Args:
        asked: `auto`, `none`, `pretrained`, or where the weights are.
        network: the network's name.
        run: the run of the stage; its tags say what an earlier try found.

    Raises:
        RequestError: they are of another network, not at hand, or of a kind that cannot be opened.
        DataError: they are missing, or changed between two tries.
        ModelError: the version they belong to is missing or changed.
        SettingsError: the S3 store refuses the credentials.
        UnavailableError: the S3 store does not answer.
    """
    tags = MlflowClient().get_run(run.run_id).data.tags
    if tags.get(STARTED_FROM) == RANDOM:
        return None
    if STARTED_FROM in tags:
        return _again(tags[STARTED_FROM], tags.get(weights_store.SHA256, ""), network)
    return _first(asked, network, run.experiment_id)


def resolve_each(asked: str, networks: Iterable[str], run: StageRun) -> dict[str, Weights]:
    """Find the weights for each network of a search that starts from any; otherwise as `resolve`."""
    text = MlflowClient().get_run(run.run_id).data.tags.get(BY_NETWORK)
    if text is None:
        found = {network: _first(asked, network, run.experiment_id) for network in networks}
    else:
        chosen: dict[str, list[str] | None] = json.loads(text)
        known = {network: chosen.get(network) for network in networks}
        found = {network: _again(pair[0], pair[1], network) if pair else None for network, pair in known.items()}
    return {network: weights for network, weights in found.items() if weights is not None}


def keep_choice(run_id: str, weights: Weights | None) -> None:
    """Write to a train run what it starts from, before the training begins."""
    if weights is None:
        tags = {STARTED_FROM: RANDOM}
        log.info("starts from random weights")
    else:
        tags = {
            STARTED_FROM: weights.source,
            weights_store.SHA256: weights.sha256,
            weights_store.LICENCE: weights.licence,
        }
        log.info("starts from %s (SHA-256 %s..., licence: %s)", weights.source, weights.sha256[:12], weights.licence)
    MlflowClient().log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])  # all or none


def keep_choices(run_id: str, networks: Iterable[str], weights: Mapping[str, Weights]) -> None:
    """Write to a tune run what each network starts from, before the first trial begins."""
    chosen = {name: [weights[name].source, weights[name].sha256] if name in weights else None for name in networks}
    MlflowClient().set_tag(run_id, BY_NETWORK, json.dumps(chosen))
    for name in chosen:
        log.info("%s starts from %s", name, weights[name].source if name in weights else "random weights")


def _first(asked: str, network: str, experiment_id: str) -> Weights | None:
    if asked == NONE:
        return None
    if asked not in (AUTO, PRETRAINED):
        try:
            return _fitting(weights_sources.named(asked), network)
        except PipelineError as error:
            raise type(error)(f"weights={asked!r}: {error}") from error
    source = weights_sources.packaged(network) or weights_sources.stored(network, experiment_id)
    if source is not None:
        return _fitting(source, network)
    if asked == PRETRAINED:
        raise RequestError(f"weights={asked!r}: there are none of {network} at hand; {_fix(network)}")
    if find(network).family == "timm":
        log.info("no pretrained weights of %s are at hand; `make weights MODEL=%s` stores them", network, network)
    return None


def _fix(network: str) -> str:
    if find(network).family == "timm":
        return f"store them with `make weights MODEL={network}`, or give weights={NONE}"
    packaged = next(name for name, entry in NETWORKS.items() if entry.package)
    return f"only networks of timm have any (model={packaged} for example); choose one, or give weights={NONE}"


def _again(source: str, digest: str, network: str) -> Weights:
    """Find what an earlier try found, and require that it is still the same."""
    weights = _fitting(source, network)
    if weights.sha256 != digest:
        raise DataError(
            f"the weights from {source} changed between two tries of this run (SHA-256 {weights.sha256[:12]}..., "
            f"before {digest[:12]}...); start a new run"
        )
    return weights


def _fitting(source: str, network: str) -> Weights:
    """Read what a source says, and require that it is not for another network."""
    weights = Weights(source, *weights_sources.about(source))
    if weights.network is not None and not same_network(weights.network, network):
        raise RequestError(
            f"{source} holds weights of {weights.network}, and the network to train is model={network}; "
            f"set model={weights.network}, or give other weights"
        )
    return weights
