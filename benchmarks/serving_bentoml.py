"""The same as `benchmarks.serving_starlette` as a BentoML service: the difference is what BentoML costs a request.

python -m benchmarks.serving_bentoml MODEL.onnx PORT
"""

# BentoML's decorators are untyped.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
import uvicorn
from bentoml.validators import ContentType

from benchmarks.serving_starlette import OnnxClassifier

Image = Annotated[Path, ContentType("image/*")]


class Classifier:
    """One API method; BentoML runs it in a thread of its pool."""

    def __init__(self) -> None:
        """Open the model."""
        self._classifier = OnnxClassifier(sys.argv[1])

    @bentoml.api
    def predict_image(self, image: Image) -> dict[str, Any]:
        """Classify one image."""
        return self._classifier.answer(image.read_bytes())


if __name__ == "__main__":
    app = bentoml.service(name="Classifier", workers=1)(Classifier).to_asgi(is_main=True)
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
