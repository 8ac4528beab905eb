from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from tasks.errors import SettingsError
from tasks.settings import load_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PIPELINE_RUNTIME"):
        monkeypatch.delenv(name, raising=False)


def docker(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    values = {
        "PIPELINE_RUNTIME": "docker",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "9f8e7d6c5b4a",
    }
    for name, value in {**values, **variables}.items():
        monkeypatch.setenv(name, value)


def test_a_laptop_needs_no_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    settings = load_settings()
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert settings.artifact_root == (tmp_path / "artifacts").as_uri()


def test_a_server_chooses_its_own_artifact_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    docker(monkeypatch)
    assert load_settings().artifact_root is None


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PIPELINE_RUNTIME": "podman"}, ["PIPELINE_RUNTIME", "podman", "docker"]),
        ({"MLFLOW_TRACKING_URI": ""}, ["MLFLOW_TRACKING_URI", "None", "http"]),
        ({"MLFLOW_TRACKING_URI": "sqlite:///a.db"}, ["MLFLOW_TRACKING_URI", "sqlite:///a.db"]),
        ({"MLFLOW_TRACKING_PASSWORD": "changeme"}, ["MLFLOW_TRACKING_PASSWORD", "placeholder"]),
        ({"MLFLOW_TRACKING_PASSWORD": ""}, ["MLFLOW_TRACKING_PASSWORD"]),
        ({"MLFLOW_TRACKING_PASSWORD": "", "MLFLOW_TRACKING_USERNAME": ""}, ["MLFLOW_TRACKING_PASSWORD", "missing"]),
        ({"MLFLOW_STAGES_PASSWORD": "of-stages"}, ["MLFLOW_STAGES_PASSWORD", "MLFLOW_REGISTRY_PASSWORD", "together"]),
        (
            {"MLFLOW_STAGES_PASSWORD": "of-stages", "MLFLOW_REGISTRY_PASSWORD": "changeme"},
            ["MLFLOW_REGISTRY_PASSWORD", "placeholder"],
        ),
        ({"SERVING_POLL_SECONDS": "0"}, ["SERVING_POLL_SECONDS", "greater than 0"]),
        ({"SERVING_KEEP_ALIVE_SECONDS": "0"}, ["SERVING_KEEP_ALIVE_SECONDS", "greater than 0"]),
        ({"SERVING_KEEP_ALIVE_SECONDS": "3601"}, ["SERVING_KEEP_ALIVE_SECONDS", "less than or equal to 3600"]),
        ({"SERVING_KEEP_ALIVE_SECONDS": "nan"}, ["SERVING_KEEP_ALIVE_SECONDS"]),
        *(
            (
                {"SERVING_ALLOWED_ORIGINS": f"https://a.example, {wrong}"},
                ["SERVING_ALLOWED_ORIGINS", wrong, "HOST:PORT"],
            )
            for wrong in (
                "shop.example",
                "https://shop.example/",
                "HTTPS://Shop.example",
                "null",
                "https://*.example",
                "ftp://shop.example",
                "https://shop.example:port",
                "https://a.example https://b.example",
            )
        ),
    ],
)
def test_unusable_values_are_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: list[str]
) -> None:
    docker(monkeypatch, **variables)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for word in words:
        assert word in str(caught.value)


def test_airflow_needs_no_login_of_its_own_beside_those_of_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    docker(monkeypatch, MLFLOW_STAGES_PASSWORD="of-stages", MLFLOW_REGISTRY_PASSWORD="of-registry")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    login = load_settings().mlflow_login(changes_registry=True)
    assert (login.user, login.password and login.password.get_secret_value()) == ("pipeline-registry", "of-registry")


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", []),
        ("*", ["*"]),
        (" https://shop.example ,http://[::1]:8080,", ["https://shop.example", "http://[::1]:8080"]),
    ],
)
def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, value: str, origins: list[str]) -> None:
    monkeypatch.setenv("SERVING_ALLOWED_ORIGINS", value)
    assert load_settings().allowed_origins == origins


def test_an_error_never_shows_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    docker(monkeypatch, MLFLOW_TRACKING_URI="sqlite:///a.db", MLFLOW_TRACKING_PASSWORD="s3cr3t-value")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "s3cr3t-value" not in str(caught.value)
    assert "s3cr3t-value" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NOTIFY_SLACK_WEBHOOK_URL", "hook-s3cret"),
        ("NOTIFY_SMTP_URL", "smtp://user:s3cret@mail.example.org/?from=a@example.org"),
        ("NOTIFY_SMTP_URL", "mail.example.org?from=a@example.org&to=s3cret@example.org"),
    ],
)
def test_a_wrong_address_of_a_channel_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("days", "accepted"), [("0", True), ("8", True), ("7", False), ("1", False), ("-1", False)])
def test_weights_outlast_the_dag_run_that_judges_them(
    monkeypatch: pytest.MonkeyPatch, days: str, accepted: bool
) -> None:
    monkeypatch.setenv("PIPELINE_KEEP_WEIGHTS_DAYS", days)
    if accepted:
        assert load_settings().pipeline_keep_weights_days == int(days)
    else:
        with pytest.raises(SettingsError, match="PIPELINE_KEEP_WEIGHTS_DAYS"):
            load_settings()
