"""Stages as pods of a Kubernetes cluster: the one Airflow runs in, or the one of a kubeconfig."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s
from kubernetes.config import ConfigException

from pipeline.kubernetes import reasons
from pipeline.kubernetes.cluster import POLL, Cluster, PodGoneError
from pipeline.kubernetes.pod import DIGEST, stage_pod
from pipeline.operator.job import StageJob, image_of
from pipeline.operator.outcome import LINES_KEPT, StageOutcome
from pipeline.operator.stage_operator import StageOperator
from tasks.errors import PipelineError, SettingsError, UnavailableError
from tasks.settings import load_settings


class KubernetesStageOperator(StageOperator, KubernetesPodOperator):
    """Runs a stage's image as a pod. The pod is deleted when the task ends; a retry resumes one whose task was killed.

    The connection (`kubernetes_conn_id`, KUBECONFIG, or the account of Airflow's own pod) and the sidecar that keeps
    the result are KubernetesPodOperator's. Its `execute` is not used: it ignores the exit code, waits for an image
    that will never come, and loses lines when the log stream is cut.
    """

    template_fields: Sequence[str] = ("request_fields", "environment", "image")
    template_ext: Sequence[str] = ()

    def __init__(self, *, stage: str, **kwargs: Any) -> None:
        settings = load_settings()
        super().__init__(
            stage=stage,
            image=image_of(stage, settings),
            namespace=settings.pipeline_kubernetes_namespace,
            do_xcom_push=True,
            **kwargs,
        )
        self._pod: str | None = None

    def run_job(self, job: StageJob) -> StageOutcome:
        """Run the stage's pod, or resume the one that an earlier try of this task left running."""
        cluster = self._cluster()
        pod = stage_pod(job, load_settings(), self._sidecar())
        self._pod = self._resumed(cluster, job, pod)
        if self._pod is None:
            self._pod = pod.metadata.name
            self.log.info("%s: pod %s of %s", job.stage, self._pod, job.image)
            cluster.create(pod)
        try:
            outcome = self._follow(cluster, job, self._pod)
        except PodGoneError:
            raise reasons.deleted(job.stage) from None
        finally:
            self._remove(cluster, self._pod)
        return outcome

    def on_kill(self) -> None:
        """Delete the pod; the cluster sends the stage SIGTERM, then SIGKILL."""
        if self._pod is not None:
            self._cluster().delete(self._pod)

    def _follow(self, cluster: Cluster, job: StageJob, name: str) -> StageOutcome:
        lines: deque[str] = deque(maxlen=LINES_KEPT)
        started = self._await_start(cluster, job, name)
        status = reasons.status_of(started)
        self.log.info("%s: runs on node %s as %s", job.stage, started.spec.node_name, status and status.image_id)
        for line in cluster.follow_logs(name):
            lines.append(line)
            self.log.info("%s", line)
        pod = cluster.read(name)
        if failure := reasons.cut_short(pod, job.stage):
            raise failure
        state = reasons.ended(pod)
        if state is None:
            raise reasons.deleted(job.stage)
        answer = cluster.result(name) if state.exit_code == 0 else None
        return StageOutcome(state.exit_code, answer, tuple(lines), state.reason == "OOMKilled")

    def _await_start(self, cluster: Cluster, job: StageJob, name: str) -> k8s.V1Pod:
        """Wait until the stage's container runs or has ended; each reason to wait is logged once."""
        patience = load_settings().pipeline_kubernetes_start_seconds
        limit = time.monotonic() + patience
        said = ""
        while True:
            pod = cluster.read(name)
            if reasons.started(pod):
                return pod
            failure = reasons.will_never_start(pod, job.stage) or reasons.cut_short(pod, job.stage)
            if failure is None and time.monotonic() > limit:
                failure = reasons.did_not_start(pod, job.stage, patience, cluster.last_warning(name))
            if failure is not None:
                raise failure
            if (waits := reasons.waits_for(pod)) and waits != said:
                said = waits
                self.log.info("%s: waiting: %s", job.stage, said)
            time.sleep(POLL)

    def _resumed(self, cluster: Cluster, job: StageJob, wanted: k8s.V1Pod) -> str | None:
        """Name of an earlier try's pod that does exactly this work; all others are deleted, and their end awaited."""
        taken: str | None = None
        for pod in cluster.find(job.key):
            name = str(pod.metadata.name)
            if taken is None and _resumable(pod, wanted):
                self.log.info("%s: resuming pod %s, started by an earlier try", job.stage, name)
                taken = name
                continue
            self.log.warning("removing pod %s, left by an earlier try", name)
            cluster.delete(name)
            cluster.await_end(name)
        return taken

    def _remove(self, cluster: Cluster, name: str) -> None:
        try:
            cluster.delete(name)
        except PipelineError as error:
            self.log.warning("pod %s could not be deleted (%s); the next try will delete it", name, error)

    def _cluster(self) -> Cluster:
        try:
            return Cluster(self.client, load_settings().pipeline_kubernetes_namespace)
        except ConfigException as error:
            raise SettingsError(
                f"no cluster is configured ({error}); set KUBECONFIG, or Airflow's connection {self.kubernetes_conn_id}"
            ) from error
        except AirflowException as error:
            raise UnavailableError(f"the connection {self.kubernetes_conn_id} cannot be used: {error}") from error

    def _sidecar(self) -> dict[str, Any]:
        return {
            "image": self.hook.get_xcom_sidecar_container_image(),
            "resources": self.hook.get_xcom_sidecar_container_resources(),
        }


def _resumable(pod: k8s.V1Pod, wanted: k8s.V1Pod) -> bool:
    """Tell whether a pod does the wanted work: pending, running, or succeeded with the result in its sidecar."""
    same = pod.metadata.annotations.get(DIGEST) == wanted.metadata.annotations[DIGEST]
    state = reasons.ended(pod)
    alive = pod.status.phase in ("Pending", "Running") and pod.metadata.deletion_timestamp is None
    return same and alive and (state is None or state.exit_code == 0)
