"""The compose files as `make doctor` reads them, compared with what YAML says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deploy import stack_files
from deploy.env_file import chosen_profiles

ROOT = Path(__file__).resolve().parents[2]
REDIS = "redis:8.0-bookworm"


def test_ports_and_images_are_those_of_the_compose_files() -> None:
    values = {"MLFLOW_PORT": "5055", "S3_PORT": "", "PIPELINE_IMAGE_TAG": "v7"}
    assert {"MLFLOW_PORT": 5055, "S3_PORT": 9000, "SERVING_PORT": 3000}.items() <= stack_files.published(
        ROOT, values
    ).items()
    named = stack_files.images(ROOT, values)
    assert {"postgres:17-trixie", "vision-mlops/mlflow:v7", "vision-mlops/serving:v7", "vision-mlops/train:v7"} <= set(
        named
    )
    assert not [name for name in named if "$" in name]


def test_services_and_their_profiles_are_those_of_the_yaml() -> None:
    written = {
        name: service
        for file in stack_files.FILES
        for name, service in yaml.safe_load((ROOT / file).read_text())["services"].items()
    }
    assert stack_files.services(ROOT).keys() == written.keys()
    assert stack_files.profiles(ROOT) == {
        name: profile for name, service in written.items() for profile in service.get("profiles", [])
    }


def test_what_runs_once_is_not_expected_to_run() -> None:
    assert stack_files.run_once(ROOT) == {"bucket", "airflow-init", "monitoring-init", "export-onnx"}


@pytest.mark.parametrize(
    ("value", "chosen"), [("", set()), ("celery", {"celery"}), (" celery , other ", {"celery", "other"}), ("*", {"*"})]
)
def test_profiles_are_read_as_compose_reads_them(value: str, chosen: set[str]) -> None:
    assert chosen_profiles({"COMPOSE_PROFILES": value}) == chosen


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("celery", True), ("*", True), ("other", False)])
def test_an_image_is_wanted_with_its_profile_only(value: str, wanted: bool) -> None:
    assert (REDIS in stack_files.images(ROOT, {"COMPOSE_PROFILES": value})) is wanted
