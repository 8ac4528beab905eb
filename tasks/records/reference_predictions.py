"""The reference predictions of an evaluate run: test images with the answers that the service must give too."""

from __future__ import annotations

import base64
import binascii

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import DataError

FILE = "probes.json"


class ReferencePrediction(BaseModel):
    """One test image and the model's answer in evaluate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    png: str = Field(description="The image as PNG, in base64.")
    probabilities: list[float] = Field(min_length=2, description="In the order of the model's classes.")
    label: str = Field(alias="class")

    @property
    def image(self) -> bytes:
        """The PNG file."""
        return base64.b64decode(self.png, validate=True)


class ReferencePredictions(BaseModel):
    """The artifact `FILE` of an evaluate run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance: float = Field(gt=0, description="Largest difference of a probability that counts as the same.")
    predictions: list[ReferencePrediction] = Field(alias="probes", min_length=1)


def read_reference_predictions(evaluate_run_id: str | None, what: str) -> ReferencePredictions:
    """Fetch the reference predictions of the evaluate run that judged a version.

    Raises:
        DataError: there is no such run, it has no reference predictions, or they are damaged.
        ChangedError: they are not what evaluate logged.
    """
    # Imported here, because the service's workers use the classes and have no MLflow, which takes 100 MB.
    from mlflow.exceptions import MlflowException

    from tasks.records import verified_artifacts
    from tasks.records.tracking import http_status
    from tasks.records.transient_errors import as_unavailable

    if evaluate_run_id is None:
        raise DataError(f"{what} has no tag 'pipeline.evaluate_run_id'; register it through the pipeline")
    try:
        text = verified_artifacts.read_text(evaluate_run_id, FILE, "train and evaluate again, or roll back")
        reference = ReferencePredictions.model_validate_json(text)
        for prediction in reference.predictions:
            prediction.image  # noqa: B018  # decodes, so that damage shows before anything is started
    except (UnicodeDecodeError, ValidationError, binascii.Error) as error:
        raise DataError(f"{FILE} of run {evaluate_run_id} is damaged ({error}); run evaluate again") from error
    except (MlflowException, OSError) as error:
        refused = isinstance(error, MlflowException) and http_status(error) not in {400, 404}
        if refused or as_unavailable(error) is not None:
            raise
        raise DataError(f"{what}: run {evaluate_run_id} has no {FILE} ({error}); run evaluate again") from error
    return reference
