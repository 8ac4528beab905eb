"""What is recorded of a compressed model: which run trained it, how it was compressed, and by how many images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mlflow import MlflowClient
from mlflow.entities import Param, RunTag

from tasks.contract.compression import METHODS
from tasks.records import tuned_sets, weights_store

METHOD = "pipeline.compression"
TRAIN_RUN = "pipeline.compressed_from_run_id"
VERSION = "pipeline.compressed_from_version"
IMAGES = "pipeline.calibration_images"  # or of a training
# What a compressed model has from the training: later stages find it where they look for it, in the model's own run.
# (Names as they are: the module of gold needs numpy, which the image of register has not.)
INHERITED = ("pipeline.prepare_run_id", "pipeline.gold_run_id", "pipeline.fingerprint")
INHERITED_PARAMS = ("dataset", "classes", "input")
# The same, unless another network is trained; and params that a training logs itself.
OF_NETWORK = (tuned_sets.TUNE_RUN, weights_store.STARTED_FROM, weights_store.SHA256, weights_store.LICENCE)
PARAMS_OF_NETWORK = ("model", "parameters_total")


@dataclass(frozen=True)
class Compression:
    """How a model was compressed.

    Attributes:
        method: its name in the contract's table.
        train_run_id: the run that made the model that was compressed.
        version: its version before the compression, if it was registered.
        images: number of training images that it was calibrated or trained on.
    """

    method: str
    train_run_id: str
    version: int | None
    images: int

    @classmethod
    def in_tags(cls, tags: Mapping[str, str]) -> Self | None:
        """Read it from the tags of a run or of a version; None if they have none, or are not complete."""
        if not {METHOD, TRAIN_RUN, IMAGES} <= set(tags):
            return None
        version = int(tags[VERSION]) if VERSION in tags else None
        return cls(tags[METHOD], tags[TRAIN_RUN], version, int(tags[IMAGES]))

    @property
    def trained(self) -> bool:
        """Whether it comes from a training: it calculates as exactly as a model that was not compressed."""
        return self.method in METHODS and METHODS[self.method].trains

    @property
    def has_network(self) -> bool:
        """Whether it is a whole network of the table or of timm, from which others can be trained."""
        return self.method in METHODS and METHODS[self.method].network

    @property
    def about(self) -> list[str | int | None]:
        """What a judgement of the model depends on: the method, the version before, and the number of images."""
        return [self.method, self.version, self.images]

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the run and of the version."""
        version = {VERSION: str(self.version)} if self.version else {}
        return {METHOD: self.method, TRAIN_RUN: self.train_run_id, IMAGES: str(self.images), **version}


def version_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a version by those of the run that made its model: how it was compressed, if it was."""
    compression = Compression.in_tags(tags)
    return compression.tags if compression else {}


def keep_parent(run_id: str, method: str, train_run_id: str, version: int | None) -> None:
    """Write to the run of a compression what it compresses, before it begins, with what that has from its training."""
    client = MlflowClient()
    trained = client.get_run(train_run_id).data
    about = METHODS[method]
    inherited = INHERITED if about.network else (*INHERITED, *OF_NETWORK)
    inherited_params = INHERITED_PARAMS if about.trains else (*INHERITED_PARAMS, *PARAMS_OF_NETWORK)
    tags = {name: trained.tags[name] for name in inherited if name in trained.tags} | {TRAIN_RUN: train_run_id}
    if version is not None:
        tags[VERSION] = str(version)
    params = {name: trained.params[name] for name in inherited_params if name in trained.params}
    client.log_batch(  # all or none
        run_id,
        params=[Param(name, value) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
