from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.responses import PlainTextResponse

from tasks.serving import predictions
from tasks.serving.http_errors import HttpError
from tasks.serving.model import ServedModel
from tasks.serving.model_reference import Target
from tasks.serving.predictions import Predictions
from tasks.serving.request_bodies import Files

PNG = (b"content-type", b"image/png")


class Asked:
    """Stands in for the predictor: says what it was asked, and answers when it may."""

    def __init__(self) -> None:
        self.index, self.workers = 0, 1
        self.full: HttpError | None = None
        self.current = ServedModel(Target("models:/m/3", "m", 3, "abc"), ("cat", "Ä"), (3, 8, 8), {}, lambda x: x)  # type: ignore[arg-type, return-value]
        self.files: Files = []
        self.error: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def check_free(self) -> None:
        if self.full:
            raise self.full

    async def classify(self, model: ServedModel, files: Callable[[], Files], size: int) -> NDArray[np.float32]:
        await self.may_answer.wait()
        self.files = files()
        if self.error:
            raise self.error
        return np.array([[0.25, 0.75]] * len(self.files), np.float32)


class Request:
    """One request to the application, whose body is sent piece by piece."""

    def __init__(self, app: Predictions, path: str, *headers: tuple[bytes, bytes], method: str = "POST") -> None:
        self._scope = {"type": "http", "method": method, "path": path, "headers": headers}
        self._body: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.answer = asyncio.create_task(app(self._scope, self._body.get, self._take))

    async def send(self, data: bytes, more: bool = False) -> Request:
        await self._body.put({"type": "http.request", "body": data, "more_body": more})
        return self

    async def leave(self) -> Request:
        await self._body.put({"type": "http.disconnect"})
        return self

    async def _take(self, message: Any) -> None:
        self.sent.append(message)

    async def json(self) -> Any:
        await self.answer
        return json.loads(self.sent[1]["body"])


async def other(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("other")(scope, receive, send)


async def refused(request: Request) -> HttpError:
    with pytest.raises(HttpError) as error:
        await request.answer
    return error.value


def test_the_answer_names_class_probabilities_and_origin() -> None:
    async def scenario() -> None:
        asked = Asked()
        request = await Request(Predictions(other, asked), "/predict_image", PNG).send(b"png")  # type: ignore[arg-type]
        assert await request.json() == {
            "class": "Ä",
            "probabilities": {"cat": 0.25, "Ä": 0.75},
            "model_version": 3,
            "run_id": "abc",
        }
        assert request.sent[0]["status"] == 200
        assert asked.files == [("the body", b"png")]

    asyncio.run(scenario())


def test_a_body_in_pieces_is_one_body() -> None:
    async def scenario() -> None:
        asked = Asked()
        request = Request(Predictions(other, asked), "/predict_image", PNG)  # type: ignore[arg-type]
        for piece in (b"one ", b"", b"two "):
            await request.send(piece, more=True)
        await (await request.send(b"three")).answer
        assert asked.files == [("the body", b"one two three")]

    asyncio.run(scenario())


def test_other_paths_are_passed_on_and_other_methods_refused() -> None:
    async def scenario() -> None:
        app = Predictions(other, Asked())  # type: ignore[arg-type]
        request = Request(app, "/livez", method="GET")
        await request.answer
        assert request.sent[1]["body"] == b"other"
        request = Request(app, "/predict_batch", method="GET")
        assert await request.json() == {"error": "GET /predict_batch is not supported; send POST"}
        assert (request.sent[0]["status"], (b"allow", b"POST") in request.sent[0]["headers"]) == (405, True)

    asyncio.run(scenario())


def test_what_takes_too_long_is_ended_whoever_is_slow() -> None:
    async def scenario() -> None:
        asked = Asked()
        app = Predictions(other, asked, seconds=0.1)  # type: ignore[arg-type]
        slow_client = await refused(Request(app, "/predict_image", PNG))
        asked.may_answer.clear()
        slow_model = await refused(await Request(app, "/predict_image", PNG).send(b"png"))
        assert (slow_client.status, slow_model.status) == (408, 504)
        assert slow_model.message == "no answer within 0.1 s; send the request again, or less"

    asyncio.run(scenario())


def test_a_failing_model_is_told_in_one_line() -> None:
    async def scenario() -> None:
        asked = Asked()
        asked.error = RuntimeError("no memory")
        failed = await refused(await Request(Predictions(other, asked), "/predict_image", PNG).send(b"png"))  # type: ignore[arg-type]
        assert (failed.status, failed.message) == (
            500, "the model failed on these images; the service's log has the reason",
        )  # fmt: skip

    asyncio.run(scenario())


def test_all_uploads_together_are_bounded_until_they_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "UPLOADS", 2 * 2**20)

    async def scenario() -> None:
        asked = Asked()
        app = Predictions(other, asked)  # type: ignore[arg-type]
        asked.may_answer.clear()
        unfinished = await Request(app, "/predict_image", PNG).send(bytes(2**20), more=True)
        waiting = await Request(app, "/predict_image", PNG).send(bytes(2**20))
        await asyncio.sleep(0)
        too_much = await refused(await Request(app, "/predict_image", PNG).send(b"png"))
        assert (too_much.status, too_much.headers) == (503, {"Retry-After": "1"})
        assert too_much.message == "uploads of 2 MiB are in progress; try again in a second"
        gone = await refused(await unfinished.leave())
        assert gone.message == "the client disconnected during the upload"
        asked.may_answer.set()
        await waiting.answer
        for _ in range(3):  # what was answered or given up takes no room
            await (await Request(app, "/predict_image", PNG).send(bytes(2**20))).answer

    asyncio.run(scenario())
