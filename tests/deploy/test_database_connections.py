"""Whether all who may connect to Postgres find room; that MLflow keeps its number: tests/stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
AIRFLOW = 5 * 15  # docs/stack.md: four components, one of which has two pools of SQLAlchemy's size
OTHERS = 10  # backups, monitoring, people
RESERVED = 3  # for superusers
MOST_WORKERS = 4  # that docs/stack.md speaks of
OF_A_SERVER = 3  # besides its workers': those of the process that starts them


def of_a_worker() -> int:
    text = (ROOT / "images" / "mlflow" / "start.py").read_text()
    [pool] = re.findall(
        r'"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "(\d+)", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "(\d+)"', text
    )
    return 3 * sum(map(int, pool))


def manifests(file: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


def limit(command: list[str]) -> int:
    [setting] = [one for one in command if one.startswith("max_connections=")]
    return int(setting.partition("=")[2])


def test_on_docker() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services["mlflow"]["environment"]["MLFLOW_WORKERS"] == "${MLFLOW_WORKERS:-2}"
    wanted = MOST_WORKERS * of_a_worker() + OF_A_SERVER + AIRFLOW + OTHERS
    assert wanted <= limit(services["postgres"]["command"]) - RESERVED


def test_in_a_cluster_while_a_pod_is_replaced() -> None:
    [deployment] = manifests(MANIFESTS / "base" / "mlflow" / "deployment.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [workers] = [int(one["value"]) for one in container["env"] if one["name"] == "MLFLOW_WORKERS"]
    scaler = manifests(MANIFESTS / "base" / "mlflow" / "scaling.yaml")[0]
    pods = scaler["spec"]["maxReplicas"] + deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    assert (pods, workers) == (6, 2), "docs/kubernetes.md says so"
    postgres = manifests(MANIFESTS / "overlays" / "local" / "postgres.yaml")[0]
    [server] = postgres["spec"]["template"]["spec"]["containers"]
    wanted = pods * (workers * of_a_worker() + OF_A_SERVER) + AIRFLOW + OTHERS
    assert wanted <= limit(server["args"]) - RESERVED
    assert wanted <= 300 - RESERVED, "what docs/kubernetes.md asks of RDS"
