"""The answers of the service, as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

WORKER_HEADER = "x-worker"  # of a prediction: the number of the worker that gave it


class _Answer(BaseModel):
    # In the OpenAPI description a field with a default is required: it is always sent.
    model_config = ConfigDict(
        frozen=True,
        protected_namespaces=(),
        serialize_by_alias=True,
        json_schema_serialization_defaults_required=True,
    )


class Classification(_Answer):
    """One image's class."""

    label: str = Field(serialization_alias="class", description="The most probable class.")
    probabilities: dict[str, float] = Field(description="Probability of each class, by class name.")


class Prediction(Classification):
    """Answer of /predict_image."""

    model_version: int | None = Field(description="Version of the registered model; null when it is not registered.")
    run_id: str | None = Field(description="MLflow run that trained the model.")


class BatchPrediction(_Answer):
    """Answer of /predict_batch: all images classified by the same model, in the order sent."""

    predictions: list[Classification]
    model_version: int | None
    run_id: str | None


class ModelInfo(_Answer):
    """Answer of /get_model_info; the fields about the model are null until one is loaded."""

    service: Literal["vision-mlops"] = Field(default="vision-mlops", description="Tells it from other programs.")
    reference: str = Field(description="What the service was told to serve.")
    follows: str | None = Field(description="The alias (or stage) it follows; null when the model is fixed.")
    registered_model: str
    model_version: int | None = None
    run_id: str | None = None
    classes: list[str] | None = None
    input: list[int] | None = Field(default=None, description="Channels, height and width the model sees.")
    architecture: str | None = None
    fingerprint: str | None = Field(default=None, description="Of the data it was trained on.")
    model_sha256: str | None = Field(default=None, description="Of the architecture and weights.")
    loaded_at: float | None = Field(default=None, description="Seconds since 1970.")
    workers: int = Field(description="Processes that answer; each has compared its answers with those of evaluate.")
    problem: str | None = Field(default=None, description="Why the newest model is not in service, if it is not.")


class Health(_Answer):
    """Answer of /health."""

    status: Literal["serving"] = "serving"
    model_version: int | None
