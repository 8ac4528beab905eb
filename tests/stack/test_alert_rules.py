"""The files of Prometheus and Alertmanager, checked by their own tools; each alert's unit tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.stack_files import images
from tests.stack.conftest import ROOT

pytestmark = pytest.mark.docker
FILES = ROOT / "deploy" / "monitoring"
TESTS = ROOT / "tests" / "deploy" / "monitoring" / "alerts_test.yml"
ALERTS = [
    rule["alert"] for group in yaml.safe_load((FILES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]


@pytest.fixture(scope="module", autouse=True)
def stand_ins() -> None:
    subprocess.run([ROOT / "tests/stack/stand_ins.sh", "prometheus", "alertmanager"], check=True)


def tool(name: str, image: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run promtool or amtool on files that lie in /files."""
    [reference] = [one for one in images(ROOT, {"COMPOSE_PROFILES": "monitoring"}) if f"/{image}:" in one]
    command = ["docker", "run", "--rm", "--network=none", "--volume", f"{folder}:/files:ro", "--entrypoint", name]
    return subprocess.run([*command, reference, *arguments], capture_output=True, text=True, timeout=1800)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A folder with the alerts beside their tests."""
    shutil.copy(FILES / "alerts.yml", tmp_path)
    shutil.copy(TESTS, tmp_path)
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("check", "file"), [("rules", "alerts.yml"), ("config", "prometheus.yml")])
def test_promtool_accepts(check: str, file: str) -> None:
    done = tool("promtool", "prometheus", "check", check, f"/files/{file}", folder=FILES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_alert_fires_when_it_should_and_not_before(rules: Path) -> None:
    done = tool("promtool", "prometheus", "test", "rules", "/files/alerts_test.yml", folder=rules)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> 26 * 3600", "> 27 * 3600"),
        ("> 0.05\n        for: 5m", "> 0.06\n        for: 5m"),
        ("< 0.1 ", "< 0.2 "),
        ("4 * 24 * 3600", "2 * 24 * 3600"),
    ],
)
def test_a_changed_limit_is_noticed(rules: Path, old: str, new: str) -> None:
    text = (rules / "alerts.yml").read_text()
    assert old in text
    (rules / "alerts.yml").write_text(text.replace(old, new))
    assert tool("promtool", "prometheus", "test", "rules", "/files/alerts_test.yml", folder=rules).returncode != 0


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_test_that_fires_and_one_that_does_not(alert: str) -> None:
    fires = [
        bool(case["exp_alerts"])
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert set(fires) == ({True} if alert == "Heartbeat" else {True, False}), "the heartbeat always fires"


def alertmanager_config(tmp_path: Path, webhook: str, heartbeat: str) -> str:
    """Run the start script as the container does, up to Alertmanager itself; return the configuration it wrote."""
    script = (FILES / "alertmanager.sh").read_text().replace("/tmp/", f"{tmp_path}/")  # noqa: S108  # the container's
    script = re.sub(r"^exec alertmanager", "exec true", script, flags=re.M)
    environment = {"NOTIFY_SLACK_WEBHOOK_URL": webhook, "NOTIFY_HEARTBEAT_URL": heartbeat}
    environment |= {"ALERTMANAGER_PUBLIC_URL": "http://x", "PATH": "/bin:/usr/bin"}
    subprocess.run(["sh", "-c", script], env=environment, check=True, capture_output=True)
    return (tmp_path / "alertmanager.yml").read_text()


@pytest.mark.parametrize("heartbeat", ["", "https://heartbeat.example.org/SECRET"])
@pytest.mark.parametrize("webhook", ["", "https://hooks.example.org/T0/SECRET"])
def test_alertmanager_tells_slack_and_the_heartbeats_server_what_is_theirs_and_nobody_else(
    tmp_path: Path, webhook: str, heartbeat: str
) -> None:
    text = alertmanager_config(tmp_path, webhook, heartbeat)
    tmp_path.chmod(0o755)
    (tmp_path / "alertmanager.yml").chmod(0o644)
    done = tool("amtool", "alertmanager", "check-config", "/files/alertmanager.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {
        "ServiceDown": "slack" if webhook else "nobody",
        "Heartbeat": "heartbeat" if heartbeat else "nobody",
    }
    for alert, receiver in expected.items():
        routed = tool("amtool", "alertmanager", "config", "routes", "test", "--config.file=/files/alertmanager.yml",
                      f"alertname={alert}", folder=tmp_path)  # fmt: skip
        assert routed.stdout.strip() == receiver
    assert "SECRET" not in text
