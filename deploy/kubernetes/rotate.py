"""Rotates the secrets of a stack in a cluster (`deploy/rotate.py`): its Secrets, Postgres' users, its workloads.

Where Postgres is outside the cluster, its superuser's password is not in the cluster, and stays. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploy.env_file import read
from deploy.kubernetes import move_stages
from deploy.kubernetes.cluster import Cluster, ClusterError
from deploy.kubernetes.secret_manifests import settings_of
from deploy.kubernetes.up import up
from deploy.rotate import OF_THE_STORE, Place
from deploy.store_policies import VARIABLES

SCHEDULER = "app=airflow,component=scheduler"  # labels of Airflow's chart
# Reads its input as lines, so that no secret is in the list of processes.
ENCRYPT_AGAIN = """read -r AIRFLOW__CORE__FERNET_KEY && read -r AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
export AIRFLOW__CORE__FERNET_KEY AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
exec airflow rotate-fernet-key"""


class InCluster(Place):
    """The stack in one namespace."""

    def __init__(self, cluster: Cluster, overlay: str) -> None:
        """Read what the overlay says about Postgres and the store."""
        self._cluster, self._overlay = cluster, overlay
        settings = settings_of(overlay)
        self.postgres = settings["POSTGRES_HOST"]
        outside = () if self.postgres == "postgres" else ("POSTGRES_PASSWORD",)
        store = () if settings["S3_AUTH"] == "keys" and "//s3:" in settings["S3_ENDPOINT_URL"] else OF_THE_STORE
        self.kept = frozenset((*outside, *store, *VARIABLES))  # the keys of purposes are those of the stack on Docker

    def require_read(self, names: Sequence[str]) -> None:
        """See Place; the commands for a cluster read `.env` only. What `up` would refuse at the end is refused here.

        Raises:
            ClusterError: stages run in the platform's namespace, as in earlier releases.
        """
        move_stages.require_none_running(self._cluster)

    def in_mlflow(self, program: str, text: str) -> str:
        """See Place."""
        return self._cluster.python("deployment/mlflow", program, container="mlflow", text=text)

    def encrypt_again(self, following: Path, keys: str) -> None:
        """See Place; in the scheduler's container, with the new password of Postgres.

        Raises:
            ClusterError: no scheduler of Airflow's chart runs in the namespace.
        """
        pods = [one["metadata"]["name"] for one in self._cluster.objects("pods", SCHEDULER)]
        if not pods:
            raise ClusterError(
                f"Airflow has encrypted values, and no scheduler of it runs in namespace {self._cluster.namespace}; "
                "start it (make kubernetes-airflow), then run make kubernetes-rotate again, which goes on"
            )
        password = read(following)["POSTGRES_AIRFLOW_PASSWORD"]
        address = f"postgresql+psycopg2://airflow:{password}@{self.postgres}:5432/airflow"
        there = ("exec", "--stdin", pods[0], "--container", "scheduler", "--")
        self._cluster.run(*there, "sh", "-c", ENCRYPT_AGAIN, text=f"{keys}\n{address}\n")

    def start(self, env_file: Path) -> None:
        """See Place; the chart's Airflow has to be upgraded afterwards."""
        up(self._cluster, self._overlay, read(env_file))
