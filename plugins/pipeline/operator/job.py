"""One stage job: all that a runtime needs to know to run a stage, built once, the same for every runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from tasks.contract.messages import StageRequest
from tasks.contract.policies_file import VARIABLE, for_stage, load_policies
from tasks.contract.resources import StageResources
from tasks.contract.stages import STAGES
from tasks.errors import RequestError
from tasks.settings import Settings

SEARCH = "tune"  # the stage that keeps a search's state in a storage
VISION = {"vision", "tune"}  # the extras of stages that read images


@dataclass(frozen=True)
class StageJob:
    """What to run, with which request, and within which limits."""

    stage: str
    request: StageRequest
    image: str
    environment: Mapping[str, str]
    private_environment: Mapping[str, str] = field(repr=False)
    resources: StageResources
    timeout: timedelta | None
    # Of a private variable: the setting that its value is from, where that has another name.
    secret_keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """`dag/dag run/task/map index`: the same for every try."""
        return self.request.task.key

    @property
    def labels(self) -> dict[str, str]:
        """Labels by which the job is found again on an engine or a cluster."""
        task = self.request.task
        return {
            "pipeline.key": self.key,
            "pipeline.stage": self.stage,
            "pipeline.dag_id": task.dag_id,
            "pipeline.dag_run_id": task.dag_run_id,
            "pipeline.task_id": task.task_id,
        }

    @property
    def local_paths(self) -> dict[str, str]:
        """The fields of the request that are paths on this machine, not addresses."""
        return local_paths(self.request)


def local_paths(request: StageRequest) -> dict[str, str]:
    """Return the fields of a request that are paths on this machine, not addresses."""
    given = {name: getattr(request, name, None) for name in ("source", "corrections", "images")}
    return {name: path for name, path in given.items() if path and "://" not in path and path[:6] != "runs:/"}


def require_shared_out(request: StageRequest) -> None:
    """Refuse a folder of this machine as `out`: in a container, what is written there would be gone with it.

    Raises:
        RequestError: naming the folder and what to give in its place.
    """
    out = getattr(request, "out", None)
    if out and "://" not in out:
        raise RequestError(
            f"out={out!r} is a folder of this machine, and a stage in a container writes to none; give an s3:// "
            "prefix, or no out: then the predictions are artifacts of the MLflow run"
        )


def image_of(stage: str, settings: Settings) -> str:
    """Name the image of a stage: by its digest where one is set, else by the tag."""
    name, digest = f"{settings.pipeline_image_prefix}/{stage}", settings.pipeline_image_digests.get(stage)
    return f"{name}@{digest}" if digest else f"{name}:{settings.pipeline_image_tag}"


def container_environment(stage: str, request: StageRequest, settings: Settings) -> dict[str, str]:
    """Settings for a stage in a container, which may reach the servers at other addresses than Airflow does.

    A stage is told only of the servers that it asks.
    The git commit is not among them: the image records its own, and Airflow's checkout may be at another commit.
    """
    values = {
        "PIPELINE_RUNTIME": settings.pipeline_runtime.value,
        "PIPELINE_EXPERIMENT": settings.pipeline_experiment,
        "PIPELINE_HOME": "/tmp/pipeline",  # noqa: S108  # the container's own volume; the rest is read-only
        "MLFLOW_TRACKING_URI": settings.pipeline_stage_mlflow_tracking_uri,
        "MLFLOW_TRACKING_USERNAME": settings.mlflow_login(changes_registry=STAGES[stage].changes_registry).user,
    }
    if STAGES[stage].calls_service:
        values["SERVING_URL"] = settings.pipeline_stage_serving_url
    if STAGES[stage].changes_registry and (policies := load_policies(settings)) is not None:
        values[VARIABLE] = for_stage(policies)
    if STAGES[stage].extra in VISION:
        limits = {
            "PIPELINE_GOLD_MEMORY_MIB": settings.pipeline_gold_memory_mib,
            "PIPELINE_GOLD_DISK_GIB": settings.pipeline_gold_disk_gib,
            "PIPELINE_STORE_WAIT_SECONDS": settings.pipeline_store_wait_seconds,
        }
        values |= {name: str(limit) for name, limit in limits.items() if limit is not None}
    if stage == "prepare":
        values["PIPELINE_PREPARE_MEMORY_GIB"] = str(settings.pipeline_prepare_memory_gib)
    if _reads_s3(request):
        values["AWS_ENDPOINT_URL"] = settings.pipeline_stage_aws_endpoint_url or settings.aws_endpoint_url
        values["AWS_REGION"] = settings.aws_region
    stack = settings.with_the_stacks_ray()
    if request.uses_ray:
        values["RAY_ADDRESS"] = stack.ray_address
    if stage == SEARCH:
        values |= {
            "TUNE_STORAGE_URI": stack.tune_storage_uri,
            "TUNE_STORAGE_REGION": stack.tune_storage_region,
            "TUNE_STORAGE_ENDPOINT_URL": stack.tune_storage_endpoint_url,
        }
    return {name: value for name, value in values.items() if value is not None}


def container_secrets(stage: str, request: StageRequest, settings: Settings) -> dict[str, str]:
    """Settings that must appear neither in Airflow's UI nor in a log, each only for a stage that needs it.

    The key of the service: for a stage that calls it. Keys for AWS: where a request names an `s3://` address. The token
    of Ray's cluster: for a request that uses it. Keys of the storage of searches: for the search.
    """
    login = settings.mlflow_login(changes_registry=STAGES[stage].changes_registry)
    values = {"MLFLOW_TRACKING_PASSWORD": login.password}
    users = {}
    if STAGES[stage].calls_service:
        values["SERVING_API_KEY"] = settings.serving_api_key
    if _reads_s3(request):
        values["AWS_SECRET_ACCESS_KEY"] = settings.aws_secret_access_key
        users["AWS_ACCESS_KEY_ID"] = settings.aws_access_key_id
    stack = settings.with_the_stacks_ray()
    if request.uses_ray and stack.ray_address:
        values["RAY_AUTH_TOKEN"] = stack.ray_auth_token
    if stage == SEARCH:
        values["TUNE_STORAGE_SECRET_ACCESS_KEY"] = stack.tune_storage_secret_access_key
        users["TUNE_STORAGE_ACCESS_KEY_ID"] = stack.tune_storage_access_key_id
    secrets = {name: value.get_secret_value() for name, value in values.items() if value is not None}
    return secrets | {name: value for name, value in users.items() if value is not None}


def secret_keys(stage: str, settings: Settings) -> dict[str, str]:
    """Name the setting that a secret variable is filled from, where it has another name."""
    login = settings.mlflow_login(changes_registry=STAGES[stage].changes_registry)
    return {"MLFLOW_TRACKING_PASSWORD": login.variable}


def _reads_s3(request: StageRequest) -> bool:
    """Tell whether a stage reads what a person keeps in S3: data, corrections or weights."""
    return any(isinstance(value, str) and value.startswith("s3://") for _, value in request)
