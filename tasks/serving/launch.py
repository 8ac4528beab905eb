"""Starts the local service where that is our task: with the local runtime, on a loopback address."""

from __future__ import annotations

import logging
import subprocess
from urllib.parse import urlsplit

from tasks.errors import ModelError, SettingsError
from tasks.serving import process
from tasks.serving.client import is_loopback
from tasks.settings import Runtime, Settings

log = logging.getLogger("tasks.deploy")


class Launcher:
    """The service process of one PIPELINE_HOME, if this project may start and end it."""

    def __init__(self, settings: Settings, registered_model: str) -> None:
        """Take the settings and the registered model that the service should follow."""
        self.started = False
        self._settings = settings
        self._registered_model = registered_model
        self.in_charge = settings.pipeline_runtime is Runtime.LOCAL and is_loopback(settings.serving_url)
        self._child: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """Start the service, because nothing answers; unless ours is already starting.

        Raises:
            SettingsError: the service that was just started died.
        """
        settings = self._settings
        if not self.in_charge:
            return  # someone else's to start
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                return
            # A stage that was killed may have started one just before: too late to be found then, and in our way.
            if process.find(settings.pipeline_home) is None:
                raise SettingsError(
                    f"the service ended at once (exit code {code}): {process.last_lines(settings.pipeline_home)}; "
                    f"see {process.log_file(settings.pipeline_home)}"
                )
            self._child, self.started = None, False
        url = urlsplit(settings.serving_url)
        host, port = url.hostname or "127.0.0.1", url.port or 80
        pid = process.find(settings.pipeline_home)
        if pid is not None:
            if f"--port {port} " in f"{process.command_line(pid)} ":
                return  # started by a stage that was killed since; it will answer soon
            log.info("ending the service (pid %d): it does not listen on the port of SERVING_URL", pid)
            process.stop(settings.pipeline_home)
        environment = {
            "PIPELINE_HOME": str(settings.pipeline_home.resolve()),
            "MLFLOW_TRACKING_URI": settings.tracking_uri,
            "SERVING_URL": settings.serving_url,
            "SERVING_REGISTERED_MODEL": self._registered_model,
        }
        self._child = process.start(settings.pipeline_home, host, port, environment)
        self.started = True
        log.info(
            "started the service on %s (pid %d), log in %s",
            settings.serving_url, self._child.pid, process.log_file(settings.pipeline_home),
        )  # fmt: skip

    def replace(self, why: str) -> None:
        """End our service, which serves another model, so that `ensure` starts the right one.

        Raises:
            ModelError: this project did not start the service, or it is still wrong after a restart.
        """
        if not self.in_charge or self.started or process.find(self._settings.pipeline_home) is None:
            raise ModelError(
                f"the service at {self._settings.serving_url} {why}; restart it with "
                f"SERVING_REGISTERED_MODEL={self._registered_model} and SERVING_MODEL=champion"
            )
        log.info("ending the service: it %s", why)
        process.stop(self._settings.pipeline_home)
