"""What a user would write instead of our service: Starlette, Pillow and ONNX Runtime, in one process.

    python -m benchmarks.serving_starlette MODEL.onnx PORT

POST /predict_image with the multipart field `image` answers as ours does, without version, checks or metrics.
"""

from __future__ import annotations

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


class OnnxClassifier:
    """Opens a file of an image, and answers with class and probabilities."""

    def __init__(self, path: str) -> None:
        """Open the model with one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options)
        [given] = self._session.get_inputs()
        self._input, self._side = given.name, given.shape[-1]

    def answer(self, file: bytes) -> dict[str, object]:
        """Classify one image."""
        image = Image.open(io.BytesIO(file)).convert("RGB")
        if image.size != (self._side, self._side):
            image = image.resize((self._side, self._side), Image.Resampling.BILINEAR)
        pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)[None])
        row = self._session.run(None, {self._input: pixels})[0][0].tolist()
        return {"class": str(int(np.argmax(row))), "probabilities": {str(i): p for i, p in enumerate(row)}}


def main() -> None:
    """Serve."""
    classifier, threads = OnnxClassifier(sys.argv[1]), ThreadPoolExecutor(2)

    async def predict(request: Request) -> Response:
        async with request.form() as form:
            file = await form["image"].read()  # type: ignore[union-attr]
        answer = await asyncio.get_running_loop().run_in_executor(threads, classifier.answer, file)
        return JSONResponse(answer)

    async def livez(request: Request) -> Response:
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/predict_image", predict, methods=["POST"]), Route("/livez", livez)])
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
