"""The BentoML service in the control process: which model is in service, whether it is ready, its start and end.

Predictions are answered by the workers (`tasks.serving.predictions`).
"""

# BentoML's decorators are untyped.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any, Self

import bentoml
from bentoml import IODescriptor
from starlette.requests import Request

from tasks.serving.answers import Health, ModelInfo
from tasks.serving.control import Control
from tasks.serving.http_errors import HttpErrorMiddleware


class NoInput(IODescriptor):  # type: ignore[misc]  # BentoML is untyped here
    """No input: a request body is ignored."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Self:
        """Return the empty input."""
        return cls()


class VisionClassifier:
    """Says which model SERVING_MODEL has brought into service."""

    control: Control
    """Set before BentoML makes the instance."""

    def __init__(self) -> None:
        """Start to fetch the model."""
        self._follower = self.control.follower
        self.control.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        """End the follower with the process."""
        self.control.stop()

    @bentoml.api(input_spec=NoInput)
    async def get_model_info(self) -> ModelInfo:
        """Tell which model is in service, which one is followed, and what is wrong, if anything."""
        reference, model = self._follower.reference, self._follower.current
        info = ModelInfo(
            reference=self.control.told,
            follows=reference.follows,
            registered_model=reference.registered_model,
            problem=self._follower.problem,
            workers=self.control.workers.count,
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
        return Health(model_version=self.control.model.target.version)

    async def __is_ready__(self) -> bool:
        """Tell BentoML's GET /readyz whether a model is loaded."""
        return self._follower.current is not None


# Requests are counted by `tasks.serving.metrics`, those to BentoML too.
service = bentoml.service(name="VisionClassifier", traffic={"timeout": 60}, metrics={"enabled": False})(
    VisionClassifier
)
service.add_asgi_middleware(HttpErrorMiddleware)  # inside of BentoML, whose own middlewares know Exceptions only
