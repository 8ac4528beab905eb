"""The settings: the only place where environment variables are read.

Every variable is listed in `.env.example`. Stages, plugins and the service all use `Settings()`;
nothing else in the project reads `os.environ` for configuration.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, Json, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tasks.errors import SettingsError

PLACEHOLDER = re.compile(r"^(change[-_ ]?me.*|<.*>|todo|xxx+|password|secret)$", re.IGNORECASE)
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
# MLflow's users, which its server makes at its start (images/mlflow/programs.py).
MLFLOW_STAGES_USER, MLFLOW_REGISTRY_USER = "pipeline-stages", "pipeline-registry"
DAG_RUN_DAYS = 7  # the longest dagrun_timeout of a DAG that trains
RAY_HEAD = "ray-head:6379"  # of the profile ray
ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
WEB_URL = re.compile(r"https?://[^/\s]+/\S*$")
MAIL_URL = re.compile(r"smtps?://[^/?\s]+/?\?(?=\S*\bfrom=[^&\s]+)(?=\S*\bto=[^&\s]+)\S+$")


class Runtime(StrEnum):
    """Where a stage runs."""

    LOCAL = "local"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class MlflowLogin:
    """A user of MLflow, and the variable that its password is in."""

    variable: str
    user: str | None
    password: SecretStr | None


class Settings(BaseSettings):
    """Configuration of a stage, an operator or the service, read from the environment."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    pipeline_runtime: Runtime = Field(Runtime.LOCAL, description="Where stages run: local, docker or kubernetes.")
    pipeline_home: Path = Field(
        Path(".local"), description="Folder of everything disposable: databases, artifacts, downloads, logs."
    )
    pipeline_experiment: str = Field("vision-mlops", min_length=1, description="MLflow experiment of all runs.")
    pipeline_git_commit: str | None = Field(None, description="Commit of the code; a tag on every run.")
    pipeline_image: str | None = Field(None, description="Image reference, digest included; a tag on every run.")

    pipeline_keep_weights_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        90, description="Days that weights of refused and of unregistered models stay, 8 or more; 0: for ever."
    )

    pipeline_gold_memory_mib: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="MiB of images that a stage keeps in memory; more stay on its disk; default: half of what is left.",
    )
    pipeline_gold_disk_gib: Annotated[int, Field(gt=0)] | None = Field(
        None, description="GiB of them that it keeps on its disk; default: half of what is free."
    )
    pipeline_prepare_memory_gib: Annotated[int, Field(gt=0)] = Field(
        2, description="GiB of memory that prepare may take for images, beside its libraries."
    )
    pipeline_store_wait_seconds: Annotated[int, Field(ge=0, le=86400)] = Field(
        600,
        description="Seconds that a stage waits for images, metrics, checkpoints, after 2 minutes by MLflow's client.",
    )

    airflow_keep_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        90, description="Days that finished DAG runs stay in Airflow's database, 14 or more; 0: for ever."
    )

    mlflow_tracking_uri: str | None = Field(
        None, description="MLflow server or database; default: SQLite under PIPELINE_HOME."
    )
    mlflow_tracking_username: str | None = Field(None, description="MLflow user, when the server asks for one.")
    mlflow_tracking_password: SecretStr | None = Field(None, description="Password of that user.")
    mlflow_stages_password: SecretStr | None = Field(
        None, description="Password of MLflow's user pipeline-stages: stages in containers that only log runs."
    )
    mlflow_registry_password: SecretStr | None = Field(
        None, description="Password of MLflow's user pipeline-registry: register, deploy and rollback in containers."
    )
    mlflow_public_url: str = Field(
        "http://127.0.0.1:5000", description="Address of the MLflow UI as a browser reaches it; used in links."
    )

    # How Airflow starts stage containers. Addresses are as seen from a container; Airflow may use others.
    pipeline_image_prefix: str = Field(
        "vision-mlops",
        min_length=1,
        description="Stage images are called PIPELINE_IMAGE_PREFIX/STAGE:PIPELINE_IMAGE_TAG.",
    )
    pipeline_image_tag: str = Field("dev", min_length=1, description="Tag of the stage images.")
    pipeline_image_digests: Annotated[dict[str, Digest], NoDecode, Json()] = Field(
        {},
        validate_default=False,
        description='Digests of the stage images, in place of the tag, as JSON: {"train": "sha256:..."}.',
    )
    pipeline_docker_network: str = Field("vision-mlops", min_length=1, description="Docker network of the stages.")
    pipeline_source_roots: str = Field(
        "",
        description="Folders of the Docker engine's machine, separated by commas, that stages may read; default: none.",
    )
    pipeline_kubernetes_namespace: str = Field(
        "vision-mlops-stages", min_length=1, description="Kubernetes namespace of the stages' pods."
    )
    pipeline_kubernetes_service_account: str = Field(
        "stage", min_length=1, description="Account that the stages' pods run as."
    )
    pipeline_kubernetes_secret: str = Field(
        "stages", min_length=1, description="Kubernetes Secret that a stage's secret variables come from."
    )
    pipeline_kubernetes_start_seconds: Annotated[int, Field(gt=0)] = Field(
        600, description="Seconds that a pod may wait for a node and its image before its task is retried."
    )
    pipeline_resources: Annotated[dict[str, dict[str, Any]], NoDecode, Json()] = Field(
        {},
        validate_default=False,
        description='Limits per stage, as JSON: {"train": {"cpus": 4, "memory": "8g", "shm_size": "1g", "gpus": 1}}.',
    )
    pipeline_policies: str | None = Field(
        None,
        description="The administrators' rules (docs/how-to/policies.md): a file, or its JSON; default: none.",
    )
    pipeline_stage_mlflow_tracking_uri: str = Field(
        "http://mlflow:5000", description="MLflow as stage containers reach it."
    )
    pipeline_stage_serving_url: str = Field(
        "http://serving:3000", description="The service as stage containers reach it."
    )
    pipeline_stage_aws_endpoint_url: str | None = Field(
        None, description="S3 endpoint of s3:// sources as stage containers reach it; default: AWS_ENDPOINT_URL."
    )
    aws_endpoint_url: str | None = Field(None, description="S3 endpoint of s3:// sources; default: AWS itself.")
    aws_region: str | None = Field(None, description="Region of that endpoint.")
    aws_access_key_id: str | None = Field(None, description="S3 user of s3:// sources.")
    aws_secret_access_key: SecretStr | None = Field(None, description="Secret key of that user.")

    # Searches (stage tune).
    ray_address: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]+$")] = Field(
        None,
        description="Head of the Ray cluster for trials and workers, HOST:PORT; default: Ray runs inside the stage.",
    )
    ray_auth_token: SecretStr | None = Field(None, description="Token of that cluster.")
    tune_storage_uri: str | None = Field(
        None, description="Folder or s3:// address of the searches' state; default: tune under PIPELINE_HOME."
    )
    tune_storage_region: str | None = Field(None, description="Region of that address.")
    tune_storage_endpoint_url: str | None = Field(
        None, description="S3 endpoint of that address as stages reach it; default: AWS itself."
    )
    tune_storage_access_key_id: str | None = Field(None, description="S3 user of that address.")
    tune_storage_secret_access_key: SecretStr | None = Field(None, description="Secret key of that user.")

    # The stack: searches keep their state in its S3 store, and trials run on its profile `ray`, unless set otherwise
    # above. Read only by Airflow and the Ray cluster's nodes: no stage container gets them.
    compose_profiles: str = Field("", description="Optional parts of the stack, separated by commas.")
    s3_bucket: str = Field("mlflow", min_length=1, description="Bucket of the stack's S3 store.")
    s3_endpoint_url: str = Field("http://s3:9000", description="That S3 store as containers reach it.")
    s3_region: str = Field("us-east-1", description="Region of that store.")
    s3_access_key: str | None = Field(None, description="User of that store.")
    s3_secret_key: SecretStr | None = Field(None, description="Secret key of that user.")
    s3_tune_access_key: str | None = Field(None, description="User of that store for searches; default: S3_ACCESS_KEY.")
    s3_tune_secret_key: SecretStr | None = Field(None, description="Secret key of that user.")

    serving_url: str = Field("http://127.0.0.1:3000", description="Where the service answers, as stages reach it.")
    serving_model: str | None = Field(
        None, description="Model the service loads: an alias, version, run ID or models:/ URI; default: champion."
    )
    serving_registered_model: str = Field("vision-classifier", description="Registered model of the service.")
    serving_poll_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0, description="Seconds between the checks whether the alias points to another version."
    )
    serving_workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Processes that answer; default: one for each CPU, up to 4."
    )
    serving_drain_seconds: Annotated[float, Field(ge=0, le=300)] = Field(
        0.0,
        description="Seconds that the service keeps answering after SIGTERM, so that clients can move on.",
    )
    serving_keep_alive_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        75.0,
        description="Seconds that a connection may be idle; more than in the load balancer in front, often 60.",
    )
    serving_allowed_origins: str = Field(
        "",
        description="Origins whose pages may call the service from a browser, such as https://shop.example, separated "
        "by commas; * means all; default: none.",
    )
    serving_api_key: SecretStr | None = Field(
        None, description="API key that the service requires and deploy sends; unset: none is required."
    )
    serving_max_upload_mb: Annotated[int, Field(gt=0)] = Field(16, description="Largest upload, in MiB.")
    serving_max_image_megapixels: Annotated[int, Field(gt=0, le=64)] = Field(
        64, description="Largest image that the service decodes, in units of 1,048,576 pixels; up to 64."
    )
    serving_max_request_megapixels: Annotated[int, Field(gt=0)] = Field(
        256, description="Pixels of all images of a request together, in the same units."
    )
    serving_max_connections: Annotated[int, Field(ge=10)] = Field(
        1000, description="Connections of each process that answers; more end one that is idle, or are refused."
    )

    # Read by Airflow only: no stage container gets them.
    notify_slack_webhook_url: SecretStr | None = Field(
        None, description="Slack webhook for messages about failures and promotions; unset: none are sent."
    )
    notify_smtp_url: SecretStr | None = Field(
        None,
        description="Mail server for the same messages: smtp://user:password@host:587/?from=a@example.org&to=b@example.org",
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if (self.mlflow_tracking_username is None) != (self.mlflow_tracking_password is None):
            raise ValueError("set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD together, or neither")
        if 0 < self.pipeline_keep_weights_days <= DAG_RUN_DAYS:
            raise ValueError(
                f"PIPELINE_KEEP_WEIGHTS_DAYS={self.pipeline_keep_weights_days}: a DAG run may take {DAG_RUN_DAYS} days "
                f"until its model is registered, approvals included; set more, or 0 to keep weights for ever"
            )
        if self.notify_slack_webhook_url and not WEB_URL.match(self.notify_slack_webhook_url.get_secret_value()):
            raise ValueError(
                "NOTIFY_SLACK_WEBHOOK_URL is not a web address; copy the whole https:// line that Slack shows"
            )
        if self.notify_smtp_url and not MAIL_URL.match(self.notify_smtp_url.get_secret_value()):
            raise ValueError("NOTIFY_SMTP_URL must be like smtp://user:password@host:587/?from=ADDRESS&to=ADDRESS")
        for root in self.source_roots:
            if not re.fullmatch(r"(/[^/\0-\x1f]+)+", root) or {".", ".."} & {*root.split("/")}:
                raise ValueError(
                    f"PIPELINE_SOURCE_ROOTS={self.pipeline_source_roots!r}: {root!r} is not a folder's absolute path, "
                    "without . or .. and not / itself"
                )
        for origin in self.allowed_origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"SERVING_ALLOWED_ORIGINS={self.serving_allowed_origins!r}: {origin!r} is not an origin; write "
                    "SCHEME://HOST or SCHEME://HOST:PORT as browsers send it, lower case and without a path, or *"
                )
        if self.pipeline_runtime is Runtime.LOCAL:
            return self
        if self.mlflow_tracking_uri is None or not self.mlflow_tracking_uri.startswith(("http://", "https://")):
            raise ValueError(
                f"MLFLOW_TRACKING_URI={self.mlflow_tracking_uri!r} cannot be reached from a container; "
                "set it to the http(s) address of an MLflow server"
            )
        if (self.mlflow_stages_password is None) != (self.mlflow_registry_password is None):
            raise ValueError("set MLFLOW_STAGES_PASSWORD and MLFLOW_REGISTRY_PASSWORD together, or neither")
        for login in (self.mlflow_login(changes_registry=changes) for changes in (False, True)):
            if login.password is None:
                raise ValueError(f"{login.variable} is missing; run `make setup` and use the value in .env")
            if PLACEHOLDER.match(login.password.get_secret_value()):
                raise ValueError(f"{login.variable} is still a placeholder; run `make setup` for a random one")
        return self

    def mlflow_login(self, *, changes_registry: bool) -> MlflowLogin:
        """Return the login of a stage in a container.

        An MLflow that others run may have none of the stack's users; then it is this process's own.

        Args:
            changes_registry: the stage writes registered models or the ledger.
        """
        if self.mlflow_stages_password is None:
            return MlflowLogin("MLFLOW_TRACKING_PASSWORD", self.mlflow_tracking_username, self.mlflow_tracking_password)
        if changes_registry:
            return MlflowLogin("MLFLOW_REGISTRY_PASSWORD", MLFLOW_REGISTRY_USER, self.mlflow_registry_password)
        return MlflowLogin("MLFLOW_STAGES_PASSWORD", MLFLOW_STAGES_USER, self.mlflow_stages_password)

    @property
    def gold_disk_bytes(self) -> int | None:
        """Bytes of images that a stage keeps on its disk; None: half of what is free."""
        return None if self.pipeline_gold_disk_gib is None else self.pipeline_gold_disk_gib * 2**30

    @property
    def prepare_memory_bytes(self) -> int:
        """Bytes of memory that prepare may take for images."""
        return self.pipeline_prepare_memory_gib * 2**30

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI: the configured one, or the SQLite file under `pipeline_home`."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.pipeline_home.resolve() / 'mlflow.db'}"

    @property
    def artifact_root(self) -> str | None:
        """Artifact folder of new experiments when there is no server to choose one."""
        if self.tracking_uri.startswith(("http://", "https://")):
            return None
        return (self.pipeline_home.resolve() / "artifacts").as_uri()

    @property
    def tune_storage(self) -> str:
        """Folder or s3:// address of the searches' state, without a slash at the end.

        Raises:
            SettingsError: stages run in containers and it is unset or a folder, which would be lost with the container.
        """
        uri = (self.tune_storage_uri or "").rstrip("/")
        if self.pipeline_runtime is not Runtime.LOCAL and "://" not in uri:
            raise SettingsError(
                f"TUNE_STORAGE_URI={uri!r} is not an address, and a folder in a container is lost "
                "with the container; set s3://BUCKET/tune"
            )
        return uri or str(self.pipeline_home.resolve() / "tune")

    def with_the_stacks_ray(self) -> Self:
        """Return the settings of a search in a container: values that are not set are the stack's.

        A TUNE_STORAGE_URI that is set keeps the endpoint and user that are set with it, or none. Without a user of the
        stack's store, no storage is filled in.
        """
        given: dict[str, object] = {}
        own = self.s3_tune_access_key is not None
        user = self.s3_tune_access_key if own else self.s3_access_key
        if self.tune_storage_uri is None and user is not None:
            given = {
                "tune_storage_uri": f"s3://{self.s3_bucket}/tune",
                "tune_storage_region": self.s3_region,
                "tune_storage_endpoint_url": self.s3_endpoint_url,
                "tune_storage_access_key_id": user,
                "tune_storage_secret_access_key": self.s3_tune_secret_key if own else self.s3_secret_key,
            }
        if self.ray_address is None and {name.strip() for name in self.compose_profiles.split(",")} & {"ray", "*"}:
            given["ray_address"] = RAY_HEAD
        return self.model_copy(update=given)

    @property
    def allowed_origins(self) -> list[str]:
        """Origins whose pages may call the service."""
        return [origin for part in self.serving_allowed_origins.split(",") if (origin := part.strip())]

    @property
    def source_roots(self) -> list[str]:
        """Folders below which a local source may be on Docker, without a slash at the end."""
        return [root.rstrip("/") or "/" for part in self.pipeline_source_roots.split(",") if (root := part.strip())]

    @property
    def datasets(self) -> Path:
        """Folder for downloaded data sets."""
        return self.pipeline_home / "datasets"


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: naming the variable and the fix, when a value is missing or unusable.
    """
    return _of(tuple(sorted(os.environ.items())))


@lru_cache(maxsize=2)  # a DAG file asks dozens of times, at 5 ms each
def _of(environment: tuple[tuple[str, str], ...]) -> Settings:
    """Read the environment, which the caller names so that a change is noticed."""
    try:
        return Settings()
    except ValidationError as error:
        # `from None`: pydantic's own error contains every input, including secrets.
        raise SettingsError("; ".join(_sentence(dict(e)) for e in error.errors())) from None


def _sentence(error: dict[str, object]) -> str:
    location = error["loc"]
    name = "_".join(map(str, location)).upper() if isinstance(location, tuple) else ""
    text = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}={error['input']!r}: {text}" if name else text
