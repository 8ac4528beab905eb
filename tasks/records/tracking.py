"""MLflow runs: one parent per DAG run, one child per stage; each is searched by its tags before it is created.

The only place that connects to MLflow and manages runs. Stages log to the active run with MLflow's fluent API; what
they pass to the next stage is `StageRun.run_id`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from tasks.contract.messages import StageRequest, StageResult, TaskIdentity
from tasks.errors import ChangedError, DataError, SettingsError, UnavailableError
from tasks.records.queries import newest_run
from tasks.records.termination import sigterm_delayed
from tasks.records.transient_errors import answered_by_another, as_unavailable
from tasks.settings import Settings

PARENT_STAGE = "pipeline"
RESULT_TAG = "pipeline.result"
REUSED_FROM = "pipeline.reused_from"  # the run that did the work and whose result this run reused
ERROR_TAG = "pipeline.error"
# Opens MLflow's pages on training runs instead of language models' traces.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_IDENTITY = {"pipeline.key", "pipeline.stage", "pipeline.request_sha256"}
MLFLOW_DEFAULTS = {
    # Enough for a server to restart: the pauses between retries double and add up to about two minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "6",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The operator prints a URL that a browser can reach; MLflow would print the stage's, three times.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # In a log, every step of a progress bar would be a line.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class StageRun:
    """The MLflow run of one stage, active while the stage works."""

    run_id: str
    experiment_id: str
    parent_run_id: str
    started: float = field(default_factory=time.monotonic)

    @property
    def result_fields(self) -> dict[str, Any]:
        """The fields that every stage result begins with: run ID, experiment and seconds so far."""
        return {
            "run_id": self.run_id,
            "experiment_id": self.experiment_id,
            "seconds": round(time.monotonic() - self.started, 3),
        }


@dataclass(frozen=True)
class RunTags:
    """The tags of a run that an earlier stage created, all read at the same moment."""

    run_id: str
    values: Mapping[str, str]

    @classmethod
    def read(cls, run_id: str, handed_over: Mapping[str, str] | None = None) -> Self:
        """Read the tags of a run.

        Args:
            run_id: the run.
            handed_over: what its stage's result said of its tags; empty text: there was none. None: it said nothing.

        Raises:
            DataError: there is no such run.
            ChangedError: a tag is not what the stage handed over.
        """
        try:
            tags = MlflowClient().get_run(run_id).data.tags
        except MlflowException as error:
            if http_status(error) != 404:
                raise
            raise DataError(f"MLflow has no run {run_id!r}; start the DAG again from its first stage") from error
        for name, value in (handed_over or {}).items():
            if (found := tags.get(name, "")) != value:
                raise ChangedError(
                    f"tag {name!r} of run {run_id} was changed after its stage had ended: it is {found[:80]!r}, "
                    f"and was {value[:80]!r}; clear the task that made this run, and find out who can write to MLflow"
                )
        return cls(run_id, tags)

    def require(self, name: str) -> str:
        """Return one tag.

        Raises:
            DataError: the run does not have it.
        """
        if name not in self.values:
            raise DataError(
                f"run {self.run_id!r} has no tag {name!r}; it was not created by the stage that comes before"
            )
        return str(self.values[name])


def connect(settings: Settings) -> str:
    """Point MLflow at its server or database and return the ID of the experiment, which is created if missing.

    Raises:
        UnavailableError: no server answers at the tracking URI.
        SettingsError: the server refuses the user, or the experiment was deleted.
    """
    for name, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Models are loaded from exported graphs and plain tensors only.
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///"):
        settings.pipeline_home.mkdir(parents=True, exist_ok=True)
    elif uri.startswith(("http://", "https://")):
        _require_server(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        return experiment(settings.pipeline_experiment, settings.artifact_root)
    except MlflowException as error:
        if http_status(error) in {401, 403}:
            raise SettingsError(
                f"MLflow at {uri} refused the user or the address (HTTP {http_status(error)}); check "
                "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and the server's allowed hosts"
            ) from error
        raise


def experiment(name: str, artifact_root: str | None = None) -> str:
    """Return the ID of an experiment, which is created if missing.

    Raises:
        SettingsError: it was deleted.
    """
    if (found := find_experiment(name)) is not None:
        return found
    try:
        return str(mlflow.create_experiment(name, artifact_root, tags=EXPERIMENT_TAGS))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    created = find_experiment(name)  # by another stage
    if created is None:
        raise _deleted(name)
    return created


def find_experiment(name: str) -> str | None:
    """Return the ID of an experiment; None if there is none.

    Raises:
        SettingsError: it was deleted.
    """
    found = mlflow.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise _deleted(name)
    return str(found.experiment_id) if found else None


@contextmanager
def stage_run(request: StageRequest, stage: str, settings: Settings) -> Iterator[StageRun]:
    """Open the run of a stage, the same one for every retry of a request, and end it with the stage.

    The run becomes MLflow's active run. It ends as FINISHED, FAILED (an exception), or KILLED (a signal, raised as
    `SystemExit` or `KeyboardInterrupt`); the parent run has the state of its last stage.
    """
    experiment_id = connect(settings)
    client = MlflowClient()
    task = request.task
    body = request.model_dump(mode="json", exclude={"task"} | request.upstream_tags())
    run_id = ""
    opened: list[str] = []
    status = "FAILED"
    try:
        with sigterm_delayed():  # otherwise a run just created could stay RUNNING
            pipeline = _tags(task, PARENT_STAGE, f"{task.dag_id}/{task.dag_run_id}", settings)
            parent_id = _find_or_create(client, experiment_id, pipeline, task.dag_run_id)
            opened.append(parent_id)
            tags = _tags(task, stage, task.key, settings) | {
                "mlflow.parentRunId": parent_id,
                "pipeline.request_sha256": hashlib.sha256(request.model_dump_json().encode()).hexdigest(),
            }
            run_id = _find_or_create(client, experiment_id, tags, task.task_id)
            opened.append(run_id)
            client.update_run(parent_id, status="RUNNING")
        with mlflow.start_run(run_id=run_id) as run:
            if settings.pipeline_image:
                client.set_tag(run_id, "pipeline.image", settings.pipeline_image)  # of this try; others may differ
            if ERROR_TAG in run.data.tags:  # from an earlier try
                client.delete_tag(run_id, ERROR_TAG)
            mlflow.log_params({name: value for name, value in body.items() if value is not None})
            yield StageRun(run_id, experiment_id, parent_id)
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    except Exception as error:
        if run_id and as_unavailable(error) is None:  # otherwise there may be no server to tell
            client.set_tag(run_id, ERROR_TAG, f"{type(error).__name__}: {error}"[:500])
        raise
    finally:
        with sigterm_delayed():
            for ended in reversed(opened):
                client.set_terminated(ended, status)


def handed_over(run_id: str, names: Sequence[str]) -> dict[str, str] | None:
    """Return what a stage's result says of its run's tags; None if it hands over none."""
    tags = MlflowClient().get_run(run_id).data.tags if names else {}
    return {name: tags.get(name, "") for name in names} or None


def record_result(run: StageRun, result: StageResult) -> None:
    """Store the result with its run, for later runs that reuse it."""
    MlflowClient().set_tag(run.run_id, RESULT_TAG, result.model_dump_json())


def tag_of(run_id: str, name: str) -> str:
    """Read one tag of a run that an earlier stage created.

    Raises:
        DataError: the run or the tag does not exist.
    """
    return RunTags.read(run_id).require(name)


def use_datasets(run: StageRun, prepare_run_id: str, *contexts: str) -> None:
    """Record the data sets that a prepare run logged as inputs of this run, too; only those of `contexts`.

    Contexts are MLflow's terms: training, validation, testing.
    """
    client = MlflowClient()
    inputs = client.get_run(prepare_run_id).inputs
    logged = inputs.dataset_inputs if inputs else []
    used = [data for data in logged if any(t.key == MLFLOW_DATASET_CONTEXT and t.value in contexts for t in data.tags)]
    if used:
        client.log_inputs(run.run_id, datasets=used)


def http_status(error: MlflowException) -> int:
    """Return the HTTP status of MLflow's error, also without a server; 502 when another program answered."""
    if answered_by_another(error) is not None:
        return 502
    return int(error.get_http_status_code())  # type: ignore[no-untyped-call]


def _deleted(name: str) -> SettingsError:
    return SettingsError(
        f"experiment {name!r} was deleted in MLflow; restore it, or set PIPELINE_EXPERIMENT to another name"
    )


def _find_or_create(client: MlflowClient, experiment_id: str, tags: dict[str, str], name: str) -> str:
    identity = {name: value for name, value in tags.items() if name in _IDENTITY}
    found = newest_run(experiment_id, identity)
    if found:
        return str(found.info.run_id)
    return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)


def _tags(task: TaskIdentity, stage: str, key: str, settings: Settings) -> dict[str, str]:
    tags = {
        "pipeline.dag_id": task.dag_id,
        "pipeline.dag_run_id": task.dag_run_id,
        "pipeline.stage": stage,
        "pipeline.key": key,
        "mlflow.source.name": f"{task.dag_id}.{task.task_id}",
    }
    if settings.pipeline_git_commit:
        tags["mlflow.source.git.commit"] = settings.pipeline_git_commit
    return tags


def _require_server(uri: str) -> None:
    """Fail within seconds and with one line, where MLflow's own retries would take minutes."""
    import requests

    cause = ""
    for pause in (0.0, 1.0, 3.0, 6.0):
        time.sleep(pause)
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5)
            if answer.status_code == 403:
                raise SettingsError(
                    f"MLflow at {uri} refuses this address; add its host:port to MLFLOW_SERVER_ALLOWED_HOSTS"
                )
            if answer.ok:
                return
            cause = f"HTTP {answer.status_code}"
        except requests.RequestException as error:
            cause = type(error).__name__
    raise UnavailableError(f"no MLflow server answers at {uri} ({cause}); start it or correct MLFLOW_TRACKING_URI")
