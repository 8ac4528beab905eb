"""POST /predict_image and /predict_batch, answered without BentoML, which takes longer than a small network.

What it costs is measured in docs/benchmarks/serving.md.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.serving import request_bodies
from tasks.serving.answers import WORKER_HEADER
from tasks.serving.http_errors import HttpError
from tasks.serving.model import ServedModel
from tasks.serving.predictor import Predictor

if TYPE_CHECKING:
    from tasks.serving.control import Control

SECONDS = 60.0  # from the head of a request to its answer
# Bytes of all uploads that all workers, and that one of them, receives or works on at a time; each worker takes one.
UPLOADS, WORKERS_UPLOADS = 256 * 2**20, 64 * 2**20
FIELDS = {"/predict_image": "image", "/predict_batch": "images"}
JSON_TYPE = (b"content-type", b"application/json")

log = logging.getLogger("tasks.serving")


class Predictions:
    """ASGI application: answers the prediction requests, and passes everything else on."""

    def __init__(
        self, app: ASGIApp, predictor: Predictor, largest_upload: int = 2**20, seconds: float = SECONDS
    ) -> None:
        """Wrap `app`, which also answers while there is no model.

        Args:
            app: what is wrapped.
            predictor: classifies the images.
            largest_upload: bytes of a request, which are taken whatever the number of workers is.
            seconds: for a request.
        """
        self.app = app
        self._predictor = predictor
        self._most = max(min(UPLOADS // predictor.workers, WORKERS_UPLOADS), largest_upload)
        self._worker = (WORKER_HEADER.encode(), str(predictor.index).encode())
        self._seconds = seconds
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        field = FIELDS.get(scope["path"]) if scope["type"] == "http" else None
        if field is None:
            await self.app(scope, receive, send)
            return
        if scope["method"] != "POST":
            text = f"{scope['method']} {scope['path']} is not supported; send POST"
            await JSONResponse({"error": text}, 405, {"Allow": "POST"})(scope, receive, send)
            return
        model = self._predictor.current
        if model is None:
            await self.app(scope, receive, send)
            return
        upload = _Upload()
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._answer(model, scope, receive, field, upload)
        except TimeoutError as error:
            if not upload.complete:
                text = f"the upload is not complete after {self._seconds:g} s ({upload.size} bytes came); send less"
                raise HttpError(408, text) from error
            raise HttpError(504, f"no answer within {self._seconds:g} s; send the request again, or less") from error
        except Exception as error:  # whatever the runtime throws
            log.exception("%s failed", scope["path"])
            raise HttpError(500, "the model failed on these images; the service's log has the reason") from error
        headers = [JSON_TYPE, (b"content-length", str(len(body)).encode()), self._worker]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, model: ServedModel, scope: Scope, receive: Receive, field: str, upload: _Upload) -> bytes:
        headers = dict(reversed(scope["headers"]))  # of several with one name the first counts
        content_type = headers.get(b"content-type", b"")
        request_bodies.check(content_type, field)
        self._predictor.check_free()
        # `HttpErrorMiddleware` has checked that it is a number.
        self._check_room(int(headers.get(b"content-length", b"0")))
        try:
            body = await self._received(receive, upload)
            files = functools.partial(request_bodies.read, content_type, body, field)
            rows = await self._predictor.classify(model, files, upload.size)
        finally:
            self._uploads -= upload.size
        return _batch(model, rows) if field == "images" else _single(model, rows)

    async def _received(self, receive: Receive, upload: _Upload) -> bytes:
        """Receive the whole body; `HttpErrorMiddleware` bounds the size of one, this the sum of all."""
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HttpError(400, "the client disconnected during the upload")
            chunk = message.get("body", b"")
            chunks.append(chunk)
            upload.size += len(chunk)
            self._uploads += len(chunk)
            self._check_room(0)
            if not message.get("more_body", False):
                upload.complete = True
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _check_room(self, more: int) -> None:
        if self._uploads + more > self._most:
            text = f"uploads of {self._most // 2**20} MiB are in progress; try again in a second"
            raise HttpError(503, text, retry_seconds=1)


class WithoutModel:
    """ASGI application: answers prediction requests that a worker without a model has passed on."""

    def __init__(self, app: ASGIApp, control: Control) -> None:
        """Wrap `app`; `control` knows why there is no model."""
        self.app = app
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] in FIELDS:
            model = self._control.model  # raises, most often
            raise HttpError(503, f"{model.target} is going into service; try again in a second", retry_seconds=1)
        await self.app(scope, receive, send)


@dataclass
class _Upload:
    """How many bytes of a request have arrived, and whether these are all."""

    size: int = 0
    complete: bool = False


def _single(model: ServedModel, rows: NDArray[np.float32]) -> bytes:
    return _json({**_classification(model, rows[0]), **_origin(model)})


def _batch(model: ServedModel, rows: NDArray[np.float32]) -> bytes:
    return _json({"predictions": [_classification(model, row) for row in rows], **_origin(model)})


def _classification(model: ServedModel, row: NDArray[np.float32]) -> dict[str, Any]:
    """The fields of `answers.Classification`."""
    return {
        "class": model.classes[int(row.argmax())],
        "probabilities": dict(zip(model.classes, row.tolist(), strict=True)),
    }


def _origin(model: ServedModel) -> dict[str, Any]:
    return {"model_version": model.target.version, "run_id": model.target.run_id}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
