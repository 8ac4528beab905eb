"""The compose files themselves: no password, no open port, no image that moves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ["docker-compose.yml", "docker-compose-mlops.yml", "docker-compose-monitoring.yml", "docker-compose-ray.yml"]
SERVICES = [
    pytest.param(file, name, service, id=f"{name} of {file}")
    for file in FILES
    for name, service in yaml.safe_load((ROOT / file).read_text())["services"].items()
]
over_services = pytest.mark.parametrize(("file", "name", "service"), SERVICES)


@over_services
def test_every_secret_comes_from_the_environment_and_must_be_there(
    file: str, name: str, service: dict[str, Any]
) -> None:
    for variable, value in service.get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|ACCESS_KEY|ROOT_USER", variable):
            optional = f"${{{variable}:-}}"  # a user's own, for data sets elsewhere
            required = r"\$\{[A-Z0-9_]+:\?run make setup\}"
            of_a_purpose = rf"\$\{{S3_[A-Z]+_(ACCESS|SECRET)_KEY:-{required}\}}"
            assert value == optional or re.fullmatch(f"{required}|{of_a_purpose}", value), variable
        if "://" in str(value) and "@" in str(value):
            assert re.search(r"//\w+:\$\{[A-Z0-9_]+:\?run make setup\}@", value), variable


@over_services
def test_only_mlflow_itself_has_its_administrators_password(file: str, name: str, service: dict[str, Any]) -> None:
    given = json.dumps(service.get("environment", {}))
    assert "MLFLOW_TRACKING_PASSWORD:?" not in given or name == "mlflow"


# Whose keys of the store each service has. Every other service has none.
STORE_KEYS = {
    "s3": {"root"},
    "bucket": {"root"},
    "mlflow": {"ARTIFACTS"},
    "airflow-api-server": {"LOGS"},
    "airflow-triggerer": {"LOGS"},
    "airflow-scheduler": {"LOGS", "TUNE"},
    "airflow-worker": {"LOGS", "TUNE"},
    "ray-worker": {"TUNE"},
}


@over_services
def test_each_service_has_the_keys_of_the_store_that_it_needs_and_no_other(
    file: str, name: str, service: dict[str, Any]
) -> None:
    given = json.dumps(service.get("environment", {}))
    purposes = re.findall(r"\$\{S3_(?:([A-Z]+)_)?(?:ACCESS|SECRET)_KEY:[-?]", re.sub(r":-\$\{S3[^}]*\}", ":-", given))
    assert {purpose or "root" for purpose in purposes} == STORE_KEYS.get(name, set())
    assert len(purposes) == 2 * len(set(purposes))  # access key and secret key


@over_services
def test_ports_are_published_to_this_machine_only(file: str, name: str, service: dict[str, Any]) -> None:
    assert all(re.match(r"127\.0\.0\.1:\$\{[A-Z0-9_]+_PORT:-\d+\}:\d+$", port) for port in service.get("ports", []))


@over_services
def test_images_are_named_with_a_tag_that_is_not_latest(file: str, name: str, service: dict[str, Any]) -> None:
    default = re.sub(r"\$\{[A-Z0-9_]+:-([^}]+)\}", r"\1", service["image"])
    assert re.search(r":(?!latest$)[\w.-]+$", default), default


@over_services
def test_privileges_are_dropped_and_use_is_limited(file: str, name: str, service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["mem_limit"]
    assert "privileged" not in service


@over_services
def test_a_service_that_stays_is_checked_and_restarted(file: str, name: str, service: dict[str, Any]) -> None:
    if service["restart"] == "no":
        assert name in {"bucket", "airflow-init", "monitoring-init", "export-onnx"}
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"


def test_nothing_depends_on_a_program_that_is_not_ready() -> None:
    for _, _, service in (case.values for case in SERVICES):
        for condition in service.get("depends_on", {}).values():
            assert condition["condition"] in {"service_healthy", "service_completed_successfully"}


def test_a_worker_has_neither_airflows_database_nor_the_keys_that_sign_tokens() -> None:
    worker = yaml.safe_load((ROOT / "docker-compose-mlops.yml").read_text())["services"]["airflow-worker"]
    text = json.dumps(worker)
    for variable in ("POSTGRES_AIRFLOW_PASSWORD", "AIRFLOW_FERNET_KEY", "AIRFLOW_JWT_SECRET", "AIRFLOW_ADMIN_PASSWORD"):
        assert variable not in text


def test_only_the_queues_two_ends_know_its_password() -> None:
    services = yaml.safe_load((ROOT / "docker-compose-mlops.yml").read_text())["services"]
    knowing = {name for name, service in services.items() if "REDIS_PASSWORD" in json.dumps(service)}
    assert knowing == {"redis", "airflow-scheduler", "airflow-worker"}


def test_every_stand_in_has_an_image_that_a_compose_file_names() -> None:
    text = "".join((ROOT / file).read_text() for file in FILES)
    folders = [folder.name for folder in (ROOT / "tests/stack/stand-ins").iterdir()]
    assert "redis" in folders
    for name in folders:
        assert f"${{{name.upper().replace('-', '_')}_IMAGE:-" in text, name


def test_who_is_told_of_the_administrators_rules_has_their_file_and_cannot_write_it() -> None:
    services = yaml.safe_load((ROOT / "docker-compose-mlops.yml").read_text())["services"]
    told = {name for name, service in services.items() if "PIPELINE_POLICIES" in service.get("environment", {})}
    assert told == {"airflow-scheduler", "airflow-dag-processor", "airflow-worker"}
    for name in told:
        path = services[name]["environment"]["PIPELINE_POLICIES"]
        (mount,) = (volume for volume in services[name]["volumes"] if isinstance(volume, dict))
        assert (path, mount["source"]) == (
            f"${{PIPELINE_POLICIES:+{mount['target']}}}",
            "${PIPELINE_POLICIES:-/dev/null}",
        )
        assert mount["read_only"]
        assert mount["bind"] == {"create_host_path": False}  # else a folder would take the place of a missing file


def test_only_the_proxy_has_the_engines_socket_and_it_goes_by_the_settings_of_the_operator() -> None:
    services: dict[str, dict[str, Any]] = {case.values[1]: case.values[2] for case in SERVICES}
    assert [name for name, one in services.items() if "docker.sock" in json.dumps(one)] == ["docker-socket-proxy"]
    given = services["docker-socket-proxy"]["environment"]
    settings = {"DOCKER_NETWORK", "IMAGE_PREFIX", "IMAGE_TAG", "IMAGE_DIGESTS", "SOURCE_ROOTS"}
    assert given.keys() == {f"PIPELINE_{name}" for name in settings}
    for name in ("airflow-scheduler", "airflow-worker"):
        assert given.items() <= services[name]["environment"].items()
        assert "engine" in services[name]["networks"]
    assert [name for name, one in services.items() if "engine" in one.get("networks", [])] == [
        *("airflow-scheduler", "airflow-worker", "docker-socket-proxy")
    ]
