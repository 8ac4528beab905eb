"""The stack in a cluster, for a backup or a restore: where Postgres and the S3 store run in the cluster.

The file and the steps are those of `deploy/backup.py`. pg_dump runs in the pod postgres-0, the S3 client in a pod of
MLflow, both by `kubectl exec`. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from deploy.backup_stack import BUCKET_CLIENT, SUPERUSER, BackupError, Stack, logged_in
from deploy.errors import CANNOT_CREATE
from deploy.kubernetes.cluster import BEFORE, Cluster, ClusterError
from deploy.kubernetes.rollout import TIMEOUT, await_ready
from deploy.kubernetes.up import AIRFLOW, OURS


class ClusterStack(Stack):
    """The stack in one namespace."""

    save_target, restore_target = "make kubernetes-backup", "make kubernetes-restore"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def require_running(self) -> None:
        """See Stack; also restarts what an unfinished restore stopped."""
        found = {one["metadata"]["name"]: one for one in self._objects("deployments,statefulsets", OURS)}
        if not found:
            raise BackupError(f"namespace {self._cluster.namespace} holds nothing of ours; run make kubernetes-up")
        if "postgres" not in found:
            raise BackupError(
                f"namespace {self._cluster.namespace} has no Postgres of its own, its state lies outside the cluster: "
                "RDS' snapshots and S3's versions are the backup there (docs/kubernetes.md)",
                CANNOT_CREATE,
            )
        self._start()
        state = ({"postgres", "s3", "mlflow"} & found.keys()) | {"mlflow"}  # without s3 where the store is outside
        ready = {
            one["metadata"]["name"]
            for one in self._objects("deployments,statefulsets", OURS)
            if one["status"].get("readyReplicas")
        }
        if missing := state - ready:
            raise BackupError(
                f"{', '.join(sorted(missing))} not ready in namespace {self._cluster.namespace}; run make "
                "kubernetes-up, and make kubernetes-verify for the reason"
            )

    def postgres(
        self, command: str, *, user: str = SUPERUSER, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """See Stack."""
        there = ("exec", "--stdin", "postgres-0", "--container", "postgres", "--")
        return self._run(*there, "sh", "-c", logged_in(command, user), stdin=stdin, stdout=stdout)

    def bucket(self, action: str) -> list[str]:
        """See Stack."""
        program = BUCKET_CLIENT.read_text(encoding="utf-8")
        there = ("exec", "--stdin", "deployment/mlflow", "--container", "mlflow", "--")
        return self._cluster.command(*there, "python", "-c", program, action)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """See Stack. The service keeps answering with its model, and is restarted afterwards to find its champion.

        A workload is stopped by setting its replicas to 0; autoscalers ignore those that have none.
        """
        try:
            for one in self._workers():
                self._stop(one)
            yield
        finally:
            self._start()
            # Version 1 in the file may be another model than version 1 before; a new pod asks MLflow.
            self._run("rollout", "restart", "deployment/serving")

    def _workers(self) -> list[dict[str, Any]]:
        """Return the workloads of MLflow and Airflow."""
        ours = [one for one in self._objects("deployments", OURS) if one["metadata"]["name"] == "mlflow"]
        return ours + self._objects("deployments,statefulsets", AIRFLOW)

    def _stop(self, workload: dict[str, Any]) -> None:
        replicas = workload["spec"].get("replicas", 1)
        if replicas == 0:
            return
        self._patch(workload, str(replicas), 0)
        labels = workload["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        # Until their last connection is closed: a database in use cannot be renamed.
        self._run("wait", "--for=delete", "pods", "--selector", selector, f"--timeout={TIMEOUT}s")

    def _start(self) -> None:
        stopped = [one for one in self._workers() if BEFORE in one["metadata"].get("annotations", {})]
        for one in stopped:
            self._patch(one, None, int(one["metadata"]["annotations"][BEFORE]))
        for one in stopped:
            if one["metadata"]["name"] == "mlflow":
                with _as_backup_error():
                    await_ready(self._cluster, _name(one))

    def _patch(self, workload: dict[str, Any], before: str | None, replicas: int) -> None:
        patch = {"metadata": {"annotations": {BEFORE: before}}, "spec": {"replicas": replicas}}
        self._run("patch", _name(workload), "--type", "merge", "--patch", json.dumps(patch))

    def _objects(self, kinds: str, selector: str) -> list[dict[str, Any]]:
        with _as_backup_error():
            return self._cluster.objects(kinds, selector)

    def _run(self, *arguments: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> str:
        with _as_backup_error():
            return self._cluster.run(*arguments, stdin=stdin, stdout=stdout)


@contextmanager
def _as_backup_error() -> Iterator[None]:
    """Raise the cluster's errors as those of a backup."""
    try:
        yield
    except ClusterError as error:
        raise BackupError(str(error), error.code) from None


def _name(workload: dict[str, Any]) -> str:
    return f"{workload['kind'].lower()}/{workload['metadata']['name']}"
