"""The BentoML service: pictures in, classes out. Started by `python -m tasks.serving`."""

# BentoML's decorators are untyped.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bentoml
import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.serving.access import ApiKeyMiddleware
from tasks.serving.admission import Admission
from tasks.serving.answers import BatchPrediction, Classification, Health, ModelInfo, Prediction
from tasks.serving.batching import Batcher
from tasks.serving.follower import Follower
from tasks.serving.http_errors import HttpError, HttpErrorMiddleware
from tasks.serving.metrics import BUCKETS, NAMESPACE, PredictionCounter, describe
from tasks.serving.model import ServedModel
from tasks.serving.model_reference import Reference, Target, parse
from tasks.serving.reference_check import load_verified
from tasks.serving.uploads import BatchUpload, ImageUpload, NoInput
from tasks.settings import load_settings
from tasks.vision.data.images import decode

DECODERS = 2


class VisionClassifier:
    """Classifies images with the model that SERVING_MODEL names."""

    def __init__(self) -> None:
        """Start to fetch the model; predictions are answered with 503 until it is loaded."""
        settings = load_settings()
        reference = parse(settings.serving_model, settings.serving_registered_model)
        self._told = settings.serving_model or reference.name
        self._counter = PredictionCounter()
        self._batcher = Batcher(self._counter.passed)
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self._admission = Admission()
        self._follower = Follower(reference, settings.serving_poll_seconds, _resolve, self._load)
        self._follower.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        """End the threads with the worker."""
        self._follower.stop()
        self._batcher.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    @bentoml.api(input_spec=ImageUpload)
    async def predict_image(self, image: Mapping[str, bytes]) -> Prediction:
        """Classify one image."""
        model = self._model()
        [answer] = await self._classify(model, image)
        return Prediction(
            label=answer.label,
            probabilities=answer.probabilities,
            model_version=model.target.version,
            run_id=model.target.run_id,
        )

    @bentoml.api(input_spec=BatchUpload)
    async def predict_batch(self, images: Mapping[str, bytes]) -> BatchPrediction:
        """Classify several images, all by the same model."""
        model = self._model()
        answers = await self._classify(model, images)
        return BatchPrediction(predictions=answers, model_version=model.target.version, run_id=model.target.run_id)

    @bentoml.api(input_spec=NoInput)
    async def get_model_info(self) -> ModelInfo:
        """Tell which model is in service, which one is followed, and what is wrong, if anything."""
        reference, model = self._follower.reference, self._follower.current
        info = ModelInfo(
            reference=self._told,
            follows=reference.follows,
            registered_model=reference.registered_model,
            problem=self._follower.problem,
        )
        if model is None:
            return info
        return info.model_copy(
            update={
                "model_version": model.target.version,
                "run_id": model.target.run_id,
                "classes": list(model.classes),
                "input": list(model.shape),
                "architecture": model.metadata.get("architecture"),
                "fingerprint": model.metadata.get("fingerprint"),
                "model_sha256": model.metadata.get("sha256"),
                "loaded_at": model.loaded_at,
            }
        )

    @bentoml.api(input_spec=NoInput)
    async def refresh(self) -> ModelInfo:
        """Check now which model should be in service, instead of at the next poll; answers before that is done."""
        self._follower.wake()
        info: ModelInfo = await self.get_model_info()
        return info

    @bentoml.api(input_spec=NoInput)
    async def health(self) -> Health:
        """Answer 200 when predictions are possible, else 503 with the reason."""
        return Health(model_version=self._model().target.version)

    async def __is_ready__(self) -> bool:
        """Tell BentoML's GET /readyz whether a model is loaded."""
        return self._follower.current is not None

    async def __metrics__(self, counted: str) -> str:
        """Answer GET /metrics: the counts of BentoML and this service, and which model is in service."""
        return counted + describe(self._follower.current, self._follower.problem)

    def _load(self, target: Target) -> ServedModel:
        model = load_verified(target)
        self._counter.expect(model)
        return model

    async def _classify(self, model: ServedModel, files: Mapping[str, bytes]) -> list[Classification]:
        with self._admission.one():
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(self._decoders, _decode, model, files)
            rows = await self._batcher.predict(model, pixels)
        answers = [
            Classification(
                label=model.classes[int(row.argmax())],
                probabilities=dict(zip(model.classes, row.tolist(), strict=True)),
            )
            for row in rows
        ]
        self._counter.add(model, (answer.label for answer in answers))
        return answers

    def _model(self) -> ServedModel:
        model = self._follower.current
        if model is None:
            raise HttpError(
                503, f"no model is loaded yet: {self._follower.problem or 'it is being fetched'}; try later"
            )
        return model


service = bentoml.service(
    name="VisionClassifier",
    traffic={"timeout": 60},
    metrics={"namespace": NAMESPACE, "duration": {"buckets": list(BUCKETS)}},
)(VisionClassifier)
service.add_asgi_middleware(HttpErrorMiddleware)
service.add_asgi_middleware(ApiKeyMiddleware)


def _resolve(reference: Reference) -> Target:
    # Imported in the follower's thread: MLflow takes seconds, and the service should be alive before.
    from tasks.serving.resolution import resolve

    return resolve(reference)


def _decode(model: ServedModel, files: Mapping[str, bytes]) -> NDArray[np.uint8]:
    channels, size, _ = model.shape
    images = np.empty((len(files), *model.shape), np.uint8)
    for i, (name, data) in enumerate(files.items()):
        try:
            images[i] = decode(data, channels, size)
        except DataError as error:
            raise HttpError(400, f"{name}: {error}") from error
    return images
