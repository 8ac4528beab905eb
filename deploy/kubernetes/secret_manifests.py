"""The Secrets of an overlay, made from `.env` and the overlay's settings.

    python3 -m deploy kubernetes-secrets --overlay local | kubectl apply --server-side -f -

Each program has a Secret of its own with what it reads, and no more; that of the stages is in their namespace. They are
never written to a file. Standard library only.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.env_file import PLACEHOLDER, parse
from deploy.errors import CONFIG
from deploy.kubernetes.cluster import ClusterError, stages_of

OVERLAYS = Path(__file__).resolve().parent / "overlays"

ADMINISTRATOR = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
OF_STAGE_USERS = ("MLFLOW_STAGES_PASSWORD", "MLFLOW_REGISTRY_PASSWORD")
OF_USERS = (*OF_STAGE_USERS, "MLFLOW_SERVING_PASSWORD")
STORE = ("S3_ACCESS_KEY", "S3_SECRET_KEY")
# Each Secret, and the variables of .env that are its keys.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "mlflow": (
        *ADMINISTRATOR,
        *OF_USERS,
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "POSTGRES_MLFLOW_PASSWORD",
        "POSTGRES_MLFLOW_AUTH_PASSWORD",
    ),
    "serving": ("MLFLOW_SERVING_PASSWORD",),
    "export-onnx": ("MLFLOW_REGISTRY_PASSWORD",),
    "stages": (*OF_STAGE_USERS, "RAY_AUTH_TOKEN"),
    "ray": ("RAY_AUTH_TOKEN",),
    "airflow": ("AIRFLOW_ADMIN_PASSWORD",),
    "airflow-environment": (*OF_STAGE_USERS, "RAY_AUTH_TOKEN"),
}
# What a stage gets, Airflow has too: that is how its operator knows which of them exist.
OF_STAGES = (
    "SERVING_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "TUNE_STORAGE_ACCESS_KEY_ID",
    "TUNE_STORAGE_SECRET_ACCESS_KEY",
)
# Added where `.env` has a value.
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "serving": ("SERVING_API_KEY",),
    "stages": OF_STAGES,
    "airflow-environment": (*OF_STAGES, "NOTIFY_SLACK_WEBHOOK_URL", "NOTIFY_SMTP_URL"),
}
# Only where pods use keys for the store, not a role.
WITH_KEYS: Mapping[str, tuple[str, ...]] = {"s3": STORE, "ray": STORE, "airflow-environment": STORE}
# Searches use the stack's store, unless `.env` names another (tasks/settings.py: with_the_stacks_ray).
OF_SEARCHES = tuple(zip(("TUNE_STORAGE_ACCESS_KEY_ID", "TUNE_STORAGE_SECRET_ACCESS_KEY"), STORE, strict=True))
# Only where Postgres is in the cluster.
IN_CLUSTER = (
    "POSTGRES_PASSWORD",
    "POSTGRES_MLFLOW_PASSWORD",
    "POSTGRES_MLFLOW_AUTH_PASSWORD",
    "POSTGRES_AIRFLOW_PASSWORD",
)
# Keys whose names Airflow's chart chose.
CHART = {
    "fernet-key": "AIRFLOW_FERNET_KEY",
    "jwt-secret": "AIRFLOW_JWT_SECRET",
    "api-secret-key": "AIRFLOW_SECRET_KEY",
}

IN_A_URL = re.compile(r"[A-Za-z0-9._~-]+")  # a pod puts these into a URL unquoted


class Values:
    """Values of `.env`; asking for one that cannot be used is an error that names it and the fix."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def required(self, name: str) -> str:
        """Return a value that must be set.

        Raises:
            ClusterError: it is empty, or a placeholder.
        """
        value = self._values.get(name, "")
        if not value:
            raise ClusterError(f"{name} is empty in .env; run make setup", CONFIG)
        if PLACEHOLDER.fullmatch(value):
            raise ClusterError(f"{name} in .env is still a placeholder; empty it and run make setup", CONFIG)
        if name.startswith("POSTGRES_") and not IN_A_URL.fullmatch(value):
            raise ClusterError(
                f"{name} in .env has a character that is special in URLs; use letters and digits", CONFIG
            )
        return value

    def optional(self, name: str) -> str:
        """Return a value; empty when it is not set."""
        return self._values.get(name, "")


def secrets_of(values: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return every Secret of an overlay: name, then key and value.

    Args:
        values: of `.env`.
        settings: of the overlay's `settings.env`.

    Raises:
        ClusterError: names the variable that is missing or cannot be used, and the fix.
    """
    env = Values(values)
    if settings.get("S3_AUTH") not in ("keys", "role"):
        raise ClusterError(
            f"S3_AUTH={settings.get('S3_AUTH')!r} in settings.env is unknown; choose keys or role", CONFIG
        )
    if settings.get("SERVING_HOST") and not env.optional("SERVING_API_KEY"):
        raise ClusterError(
            f"SERVING_HOST={settings['SERVING_HOST']} publishes the service, and SERVING_API_KEY is empty in .env: "
            "anyone could use it; set a key",
            CONFIG,
        )
    found = {secret: {name: env.required(name) for name in names} for secret, names in REQUIRED.items()}
    for secret, names in OPTIONAL.items():
        found[secret] |= {name: env.optional(name) for name in names if env.optional(name)}
    if settings["S3_AUTH"] == "keys":
        for secret, names in WITH_KEYS.items():
            found.setdefault(secret, {}).update({name: env.required(name) for name in names})
        if not (settings.get("TUNE_STORAGE_URI") or env.optional("TUNE_STORAGE_URI")):
            found["stages"] |= {name: env.required(of) for name, of in OF_SEARCHES}
    if settings["POSTGRES_HOST"] == "postgres":
        found["postgres"] = {name: env.required(name) for name in IN_CLUSTER}
    found["airflow"] |= {key: env.required(name) for key, name in CHART.items()}
    found["airflow"] |= {
        "connection": f"postgresql+psycopg2://airflow:{env.required('POSTGRES_AIRFLOW_PASSWORD')}"
        f"@{settings['POSTGRES_HOST']}:5432/airflow",
    }
    found["airflow-environment"]["AIRFLOW_CONN_TASK_LOGS"] = json.dumps(_log_store(env, settings))
    return found


def _log_store(env: Values, settings: Mapping[str, str]) -> dict[str, Any]:
    """Return Airflow's connection to the store of task logs; without keys, boto3 uses the role of the pod's account."""
    connection: dict[str, Any] = {
        "conn_type": "aws",
        "extra": {"endpoint_url": settings["S3_ENDPOINT_URL"], "region_name": settings["S3_REGION"]},
    }
    if settings["S3_AUTH"] == "keys":
        connection |= {"login": env.required("S3_ACCESS_KEY"), "password": env.required("S3_SECRET_KEY")}
    return connection


def manifest(secrets: Mapping[str, Mapping[str, str]], namespace: str) -> str:
    """Return the Secrets of a platform's namespace, and that of its stages, as one JSON list."""
    stages = stages_of(namespace)
    items = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": stages if name == "stages" else namespace,
                "labels": {"app.kubernetes.io/part-of": "vision-mlops"},
            },
            "type": "Opaque",
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in sorted(content.items())},
        }
        for name, content in sorted(secrets.items())
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def folder_of(overlay: str) -> Path:
    """Return the folder of an overlay: one in `overlays` by its name, or one of your own by its path.

    Raises:
        ClusterError: there is no such overlay.
    """
    folder = Path(overlay).resolve() if "/" in overlay else OVERLAYS / overlay
    if not (folder / "kustomization.yaml").is_file():
        known = ", ".join(sorted(path.name for path in OVERLAYS.iterdir()))
        raise ClusterError(f"OVERLAY={overlay!r} is unknown; choose one of {known}, or a folder of your own", CONFIG)
    return folder


def settings_of(overlay: str) -> dict[str, str]:
    """Read an overlay's `settings.env`; without one, that of the overlay it builds on.

    Raises:
        ClusterError: there is no such overlay, or no `settings.env`.
    """
    folder = folder_of(overlay)
    while not (folder / "settings.env").is_file():
        resources = re.findall(r"^ +- (\.\./\S+)$", (folder / "kustomization.yaml").read_text(encoding="utf-8"), re.M)
        below = [path for path in ((folder / one).resolve() for one in resources) if path.parent.name == OVERLAYS.name]
        if not below:
            raise ClusterError(f"{folder} has no settings.env and builds on no overlay that has one", CONFIG)
        folder = below[0]
    return parse((folder / "settings.env").read_text(encoding="utf-8"))
