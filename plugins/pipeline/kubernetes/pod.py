"""A stage job as a pod: the same image, request, variables and limits as a container of the Docker runtime."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults, add_xcom_sidecar
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from pipeline.operator.job import StageJob, require_shared_out
from tasks.contract.resources import SHARE, StageResources
from tasks.errors import RequestError, SettingsError
from tasks.settings import Settings

STAGE = "base"  # the container that KubernetesPodOperator calls so
SIDECAR = PodDefaults.SIDECAR_CONTAINER_NAME
RESULT_FOLDER = PodDefaults.XCOM_MOUNT_PATH
RESULT_PATH = str(PurePosixPath(RESULT_FOLDER) / "return.json")
USER = 10001  # the user of the images
GRACE = 10  # seconds from SIGTERM to SIGKILL
MARGIN = timedelta(minutes=5)  # Airflow stops a task at its timeout; the cluster stops the pod only if Airflow is gone

# The provider's sidecar ignores SIGTERM, so that each pod would use its whole grace period to end.
KEEP = "trap 'exit 0' INT TERM; while true; do sleep 3600 & wait $!; done"

ROOM = "16Mi"  # for the result file: many times the largest result

KEY = "pipeline.key"
DIGEST = "pipeline.digest"


def stage_pod(job: StageJob, settings: Settings, sidecar: Mapping[str, Any] | None = None) -> k8s.V1Pod:
    """Build the pod of a job. Pod security is "restricted", the root file system is read-only.

    Args:
        job: what to run.
        settings: where, as whom, and from which Secret.
        sidecar: image and resources of the container that keeps the result, when they are not the provider's.

    Raises:
        RequestError: a field is a path on this machine, which pods do not share.
        SettingsError: a limit has no meaning on a cluster.
    """
    require_shared_out(job.request)
    for name, path in job.local_paths.items():
        raise RequestError(
            f"{name}={path!r} is a path, and a pod cannot read this machine's folders; use an s3:// "
            f"{'or runs:/ address' if name == 'corrections' else 'URL'}"
        )
    stage = k8s.V1Container(
        name=STAGE,
        image=job.image,
        image_pull_policy="IfNotPresent",
        args=[job.stage, "--request", job.request.model_dump_json()],
        env=_environment(job, settings),
        resources=_resources(job.stage, job.resources),
        security_context=_restricted(),
        volume_mounts=[
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108  # a volume of the pod's own
            k8s.V1VolumeMount(name="shm", mount_path="/dev/shm"),  # noqa: S108
        ],
        # Keeps the last output for when the log is unavailable: a lost node, an evicted pod.
        termination_message_policy="FallbackToLogsOnError",
    )
    disk = job.resources.ephemeral_storage
    shm = k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=_size(job.resources.shm_size))
    spec = k8s.V1PodSpec(
        containers=[stage],
        restart_policy="Never",  # Airflow does the retries
        service_account_name=settings.pipeline_kubernetes_service_account,
        automount_service_account_token=False,
        enable_service_links=False,
        # As PID 1 the stage would ignore every signal without a handler, and would have to reap its orphans.
        share_process_namespace=True,
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=USER,
            run_as_group=USER,
            fs_group=USER,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        termination_grace_period_seconds=GRACE,
        active_deadline_seconds=_deadline(job.timeout, settings),
        node_selector=job.resources.node_selector or None,
        tolerations=_tolerations(job),
        volumes=[
            k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=disk and _size(disk))),
            k8s.V1Volume(name="shm", empty_dir=shm),
        ],
    )
    given = dict(sidecar or {})
    pod = add_xcom_sidecar(
        k8s.V1Pod(api_version="v1", kind="Pod", metadata=_metadata(job, settings), spec=spec),
        sidecar_container_image=given.get("image"),
        sidecar_container_resources=given.get("resources") or _sidecar_resources(),
        sidecar_container_security_context=_restricted(),
    )
    pod.spec.containers[-1].command = ["sh", "-c", KEEP]
    pod.spec.volumes[0].empty_dir = k8s.V1EmptyDirVolumeSource(size_limit=ROOM)
    pod.metadata.annotations[DIGEST] = digest_of(pod.spec)
    return pod


def key_label(key: str) -> str:
    """A job's key as a label value (at most 63 characters, few of them allowed); the annotation holds it in full."""
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def digest_of(spec: k8s.V1PodSpec) -> str:
    """Digest of a pod's specification; pods with the same digest do the same work."""
    text = json.dumps(ApiClient().sanitize_for_serialization(spec), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _metadata(job: StageJob, settings: Settings) -> k8s.V1ObjectMeta:
    return k8s.V1ObjectMeta(
        name=f"{job.stage}-{secrets.token_hex(6)}",
        namespace=settings.pipeline_kubernetes_namespace,
        labels={
            "app.kubernetes.io/name": "stage",  # the NetworkPolicies select it by this label
            "app.kubernetes.io/component": job.stage,
            "pipeline.stage": job.stage,
            KEY: key_label(job.key),
        },
        annotations={
            **{name: value for name, value in job.labels.items() if name != "pipeline.stage"},
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        },
    )


def _environment(job: StageJob, settings: Settings) -> list[k8s.V1EnvVar]:
    """Plain variables by value, secret ones by reference: no pod's specification holds a secret."""
    clear = {**job.environment, "PIPELINE_IMAGE": job.image}
    secret = settings.pipeline_kubernetes_secret
    return [k8s.V1EnvVar(name=name, value=clear[name]) for name in sorted(clear)] + [
        k8s.V1EnvVar(
            name=name,
            value_from=k8s.V1EnvVarSource(
                secret_key_ref=k8s.V1SecretKeySelector(name=secret, key=job.secret_keys.get(name, name))
            ),
        )
        for name in sorted(job.private_environment)
    ]


def _resources(stage: str, wanted: StageResources) -> k8s.V1ResourceRequirements:
    """Requests equal limits, except for cores: a node never promises the same memory twice."""
    if wanted.gpus < 0:
        raise SettingsError(
            f"resources of {stage}: gpus={wanted.gpus} means all GPUs, which works on Docker only; give a number"
        )
    limits = {"memory": _size(wanted.memory)}
    if wanted.cpus is not None:
        limits["cpu"] = f"{wanted.cpus:g}"
    if wanted.ephemeral_storage is not None:
        limits["ephemeral-storage"] = _size(wanted.ephemeral_storage)
    if wanted.gpus:
        limits[wanted.gpu_kind] = str(wanted.gpus)
    requests = {"cpu": f"{SHARE:g}"} | limits
    if wanted.cpu_request is not None:
        requests["cpu"] = f"{wanted.cpu_request:g}"
    return k8s.V1ResourceRequirements(limits=limits, requests=requests)


def _sidecar_resources() -> k8s.V1ResourceRequirements:
    return k8s.V1ResourceRequirements(
        requests={"cpu": "1m", "memory": "16Mi"}, limits={"memory": "64Mi", "ephemeral-storage": "64Mi"}
    )


def _restricted() -> k8s.V1SecurityContext:
    return k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        run_as_non_root=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )


def _tolerations(job: StageJob) -> list[k8s.V1Toleration] | None:
    known = {name: attribute for attribute, name in k8s.V1Toleration.attribute_map.items()}
    for toleration in job.resources.tolerations:
        if unknown := sorted(set(toleration) - set(known)):
            raise SettingsError(
                f"resources of {job.stage}: tolerations: {unknown[0]!r} is unknown; choose from {', '.join(known)}"
            )
    found = [
        k8s.V1Toleration(**{known[name]: value for name, value in toleration.items()})
        for toleration in job.resources.tolerations
    ]
    return found or None


def _deadline(timeout: timedelta | None, settings: Settings) -> int | None:
    if timeout is None:
        return None
    return int((timeout + MARGIN).total_seconds()) + settings.pipeline_kubernetes_start_seconds


def _size(text: str) -> str:
    """A size as Docker writes it (`8g`), as Kubernetes does (`8Gi`); both mean powers of 1024."""
    return f"{text[:-1]}{text[-1].upper()}i" if text[-1] != "k" else f"{text[:-1]}Ki"
