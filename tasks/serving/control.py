"""The control process of the service: follows the reference, prepares models, and keeps the workers running."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from tasks.serving.follower import Follower
from tasks.serving.http_errors import HttpError
from tasks.serving.model import PreparedModel
from tasks.serving.model_reference import Reference, Target, parse
from tasks.serving.workers import Workers
from tasks.settings import Settings


class Control:
    """The model that SERVING_MODEL names, kept in service by all workers."""

    def __init__(self, settings: Settings, workers: Workers, folder: Path) -> None:
        """Take the settings, the workers, and an empty folder for models; see `start`."""
        reference = parse(settings.serving_model, settings.serving_registered_model)
        self.told = settings.serving_model or reference.name
        self.workers = workers
        self.follower = Follower(reference, settings.serving_poll_seconds, _resolve, self._load)
        self._folder = folder
        self._numbers = itertools.count()

    def start(self) -> None:
        """Start to fetch the model; predictions are refused with 503 until it is loaded."""
        self.follower.start()

    def stop(self) -> None:
        """End the follower."""
        self.follower.stop()

    @property
    def model(self) -> PreparedModel:
        """The model in service.

        Raises:
            HttpError: 503, there is none yet.
        """
        model = self.follower.current
        if model is None:
            raise HttpError(503, f"no model is loaded yet: {self.follower.problem or 'it is being fetched'}; try later")
        return model

    def _load(self, target: Target) -> PreparedModel:
        # Imported in the follower's thread: MLflow takes seconds, and the service should be alive before.
        from tasks.serving.preparation import prepare
        from tasks.serving.promotion import require_promoted

        if self.follower.reference.is_champion:
            require_promoted(target)
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        try:
            prepared = prepare(target, folder)
            _keep_only(prepared.files, folder)
            self.workers.serve(prepared)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for other in self._folder.iterdir():  # the workers have the model before in memory, and will not open it again
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        return dataclasses.replace(prepared, loaded_at=time.time())


class ControlServer(uvicorn.Server):
    """Answers the workers, and ends after them: it passes a signal on, and waits."""

    def __init__(self, app: ASGIApp, workers: Workers, path: Path, **options: object) -> None:
        """Take the application, the workers, the path of the socket on which they ask, and options of `Config`."""
        super().__init__(uvicorn.Config(app, uds=str(path), **options))  # type: ignore[arg-type]
        self._workers = workers
        self._signal: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Pass a signal on to the workers."""
        self._signal = sig
        self._workers.end(sig)

    async def on_tick(self, counter: int) -> bool:
        """Check ten times a second whether the workers have ended."""
        if self._signal is not None and self._workers.ended:
            super().handle_exit(self._signal, None)
        return await super().on_tick(counter)


def _keep_only(files: Path, folder: Path) -> None:
    """Delete what no worker opens, such as the form for torch: in a container, `folder` may be in memory."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_relative_to(files):
            file.unlink()


def _resolve(reference: Reference) -> Target:
    from tasks.serving.resolution import resolve

    return resolve(reference)
