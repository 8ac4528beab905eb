"""Counts what a stack holds: connections, open files, memory, and what runs left behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import ViewType

from deploy.leftover_containers import stages
from tests.stack.conftest import PROJECT, Stack

from .growth import LEFT, TOLD

# Shell builtins only, because some images have no other program. Numbers: open files, KiB, entries of /tmp.
INSIDE = """files=0 kib=0
for p in /proc/[0-9]*; do
  [ "$p" = /proc/$$ ] && continue
  set -- $p/fd/*; files=$((files + $#))
  while read -r name value rest; do [ "$name" = VmRSS: ] && kib=$((kib + value)); done <$p/status
done 2>/dev/null
set -- /tmp/*; [ -e "$1" ] || shift
echo $files $kib $#"""
CONNECTIONS = "SELECT datname, count(*) FROM pg_stat_activity WHERE datname <> 'postgres' GROUP BY 1 ORDER BY 1"
SELF = "postgres"  # its open files are those of its connections, which are counted


def counts(stack: Stack, client: MlflowClient, experiment: str) -> dict[str, int]:
    """Count once; takes about two seconds.

    Args:
        stack: with both compose files up.
        client: of its MLflow.
        experiment: the one whose runs are counted; it need not exist yet.
    """
    found = {f"{LEFT}containers of stages": len(stages(PROJECT))}
    found[f"{LEFT}volumes without a container"] = len(
        _docker("volume", "ls", "--quiet", "--filter=dangling=true").split()
    )
    found[f"{LEFT}runs without an end"] = _unended(client, experiment)
    for line in stack.psql("airflow", "airflow", CONNECTIONS).stdout.splitlines():
        database, number = line.split("|")
        found[f"connections: {database}"] = int(number)
    for service, container in sorted(_services().items()):
        user = ["--user", SELF] if service == SELF else []
        files, kib, temporary = map(int, _docker("exec", *user, container, "sh", "-c", INSIDE).split())
        if service != SELF:
            found[f"open files: {service}"] = files
        found[f"files in /tmp: {service}"] = temporary
        found[f"{TOLD}{service}"] = kib // 1024
    return found


def stage_container(run_id: str, stage: str) -> str | None:
    """ID of the stage's container that runs for a DAG run now."""
    labels = [f"--filter=label=pipeline.dag_run_id={run_id}", f"--filter=label=pipeline.stage={stage}"]
    found = _docker("ps", "--quiet", *labels).split()
    return found[0] if found else None


def kill(container: str) -> bool:
    """Kill a container as a machine out of memory would; False when it had ended already."""
    return subprocess.run(["docker", "kill", "--signal=KILL", container], capture_output=True).returncode == 0


def _services() -> Mapping[str, str]:
    """IDs of the containers that run, by service."""
    found = {}
    for project in (PROJECT, f"{PROJECT}-work"):
        for line in _docker("ps", f"--filter=label=com.docker.compose.project={project}", "--format=json").splitlines():
            one = json.loads(line)
            labels = dict(label.split("=", 1) for label in one["Labels"].split(",") if "=" in label)
            found[labels["com.docker.compose.service"]] = one["ID"]
    return found


def _unended(client: MlflowClient, experiment: str) -> int:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return 0
    running = "attributes.status = 'RUNNING'"
    return len(client.search_runs([found.experiment_id], running, ViewType.ACTIVE_ONLY, 1000))


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout
