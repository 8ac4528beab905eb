"""Stages as containers on a Docker engine, reached through its socket or a socket proxy (DOCKER_HOST)."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.exceptions import AirflowException
from docker import APIClient
from docker.errors import APIError, NotFound
from docker.types import DeviceRequest, LogConfig, Mount

from pipeline.docker import engine
from pipeline.operator.job import StageJob, image_of, local_paths, require_shared_out
from pipeline.operator.local_sources import in_container, root_of
from pipeline.operator.outcome import LINES_KEPT, StageOutcome
from pipeline.operator.stage_operator import StageOperator
from tasks.contract.messages import StageRequest
from tasks.errors import UnavailableError
from tasks.settings import load_settings

# The only folders a stage may write to. Anonymous volumes, not tmpfs: a download into /tmp must not count as memory,
# and a tmpfs is gone before the result can be read.
WRITABLE = ("/tmp", "/airflow/xcom")  # noqa: S108


class DockerStageOperator(StageOperator, DockerOperator):  # type: ignore[misc]  # execute: ours returns the result
    """Runs a stage's image; the container is removed when the task ends, however it ends.

    Connection, TLS and API version are DockerOperator's. Its `execute` is not used: it does not read the exit state,
    takes the last log line for the result, has no CPU limit, and ends when the log stream of a quiet container does.
    """

    template_fields: Sequence[str] = ("request_fields", "environment", "image")
    template_ext: Sequence[str] = ()
    grace: ClassVar[int] = 3  # seconds from SIGTERM to SIGKILL; Airflow kills the task itself after five
    name_prefix: ClassVar[str] = "stage"

    def __init__(self, *, stage: str, timeout: int = 600, **kwargs: Any) -> None:
        image = image_of(stage, load_settings())
        super().__init__(stage=stage, image=image, timeout=timeout, mount_tmp_dir=False, **kwargs)
        self._container: str | None = None

    def require_reachable(self, request: StageRequest) -> None:
        """Refuse paths that are not below PIPELINE_SOURCE_ROOTS, and those to write to.

        Raises:
            RequestError: naming the field, the path and the setting.
        """
        require_shared_out(request)
        roots_of(absolute_paths(request))

    def run_job(self, job: StageJob) -> StageOutcome:
        """Run the stage's container; its output is streamed into the task's log."""
        cli = self._connect()
        try:
            return self._run(cli, job)
        except engine.STREAM_CUT as error:
            if isinstance(error, APIError) and error.status_code == engine.REFUSED:
                raise engine.refused(error) from error
            raise UnavailableError(f"lost the connection to the Docker engine at {self.docker_url}: {error}") from error

    def on_kill(self) -> None:
        """Ask the stage to stop, then remove its container."""
        if self._container is None:
            return
        cli = self._connect()
        try:
            cli.stop(self._container, timeout=self.grace)
        except NotFound:
            return
        engine.remove(cli, self._container)

    def _run(self, cli: APIClient, job: StageJob) -> StageOutcome:
        network = load_settings().pipeline_docker_network
        for name in engine.remove_leftovers(cli, job.key, network):
            self.log.warning("removed container %s, left by an earlier try", name)
        image, digest = engine.resolve_image(cli, job.image)
        lines: deque[str] = deque(maxlen=LINES_KEPT)
        try:
            try:
                self._container = self._create_within(cli, job, image, digest, network)
                cli.start(self._container)
            except APIError as error:
                raise engine.explain(error, job.image, network) from error
            self.log.info("%s: container %s of %s", job.stage, self._container[:12], digest)
            for line in engine.follow_logs(cli, self._container):
                lines.append(line)
                self.log.info("%s", line)
            state = cli.inspect_container(self._container)["State"]
            answer = engine.fetch_result(cli, self._container) if state["ExitCode"] == 0 else None
            return StageOutcome(state["ExitCode"], answer, tuple(lines), state["OOMKilled"])
        except NotFound as error:
            raise UnavailableError(f"the container of {job.stage} was removed while it ran; try again") from error
        finally:
            if self._container is not None:
                engine.remove(cli, self._container)

    def _connect(self) -> APIClient:
        try:
            return self.cli
        except (AirflowException, APIError) as error:
            raise UnavailableError(
                f"no Docker engine answers at {self.docker_url} ({error}); start it, or correct DOCKER_HOST"
            ) from error

    def _create_within(self, cli: APIClient, job: StageJob, image: str, digest: str, network: str) -> str:
        """Create the container; where the engine has fewer CPU cores than the limit, which it refuses, without one."""
        try:
            return self._create(cli, job, image, digest, network)
        except APIError as error:
            if job.resources.cpus is None or engine.TOO_MANY_CPUS not in str(error.explanation):
                raise
            self.log.warning("%s: all CPU cores of the engine, fewer than cpus=%g", job.stage, job.resources.cpus)
        unlimited = replace(job, resources=job.resources.model_copy(update={"cpus": None}))
        return self._create(cli, unlimited, image, digest, network)

    def _create(self, cli: APIClient, job: StageJob, image: str, digest: str, network: str) -> str:
        """Create the container and return its ID.

        The name is random, so that two tries never clash; containers are found by their labels.
        """
        limits = job.resources
        mounts = [Mount(target=path, source=None, type="volume") for path in WRITABLE]
        request = job.request
        paths = absolute_paths(request)
        mounts += engine.read_only(roots_of(paths))
        request = request.model_copy(update={name: in_container(path) for name, path in paths.items()})
        container = cli.create_container(
            image=image,
            name=f"{self.name_prefix}-{job.stage}-{secrets.token_hex(6)}",
            command=[job.stage, "--request", request.model_dump_json()],
            environment={**job.environment, **job.private_environment, "PIPELINE_IMAGE": digest},
            labels=job.labels,
            host_config=cli.create_host_config(
                network_mode=network,
                mounts=mounts,
                read_only=True,
                nano_cpus=None if limits.cpus is None else round(limits.cpus * 1e9),
                mem_limit=limits.memory,
                memswap_limit=limits.memory,
                shm_size=limits.shm_size,
                device_requests=[DeviceRequest(count=limits.gpus, capabilities=[["gpu"]])] if limits.gpus else None,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
                # As PID 1, Python would ignore SIGTERM until its own handler is installed.
                init=True,
                log_config=LogConfig(type="json-file", config={"max-size": "20m", "max-file": "2"}),
            ),
        )
        return str(container["Id"])


def absolute_paths(request: StageRequest) -> dict[str, str]:
    """Return the fields of a request that are paths, absolute, on the engine's machine."""
    return {name: str(Path(path).expanduser().absolute()) for name, path in local_paths(request).items()}


def roots_of(paths: Mapping[str, str]) -> set[str]:
    """Return the folders of PIPELINE_SOURCE_ROOTS that paths, by the name of their field, are in.

    Raises:
        RequestError: one is in none of them.
    """
    return {root_of(name, path, load_settings().source_roots) for name, path in paths.items()}
