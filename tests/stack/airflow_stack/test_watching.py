"""The profile monitoring on a running stack: what it sees after a real run and real predictions, whom it tells."""

from __future__ import annotations

import http.server
import io
import json
import math
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from PIL import Image

from deploy import nightly_backup
from tests.stack.airflow_stack.conftest import DAG, FILE, UNSCHEDULED, User, ended, in_service, trigger
from tests.stack.conftest import PROJECT, ROOT, Stack, gateway_of

pytestmark = [pytest.mark.docker, pytest.mark.long]
MONITORING = ROOT / "deploy" / "monitoring"
# Grafana is left out where its image cannot be pulled; tests/deploy/test_dashboards.py reads its files.
SERVICES = ["prometheus", "alertmanager", "postgres-exporter", "node-exporter", "vmagent"]
WATCHED_RUN = "watched"
# What has most metrics of its own to send, and what makes it do so. Here and not in `.env`, where the word would make
# Airflow's initialisation and the api-server anew too.
AIRFLOW = ["airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"]
TURNED_ON = {"COMPOSE_PROFILES": "monitoring", "OTEL_METRIC_EXPORT_INTERVAL": "2000"}
# What a task's process does with its metrics as it ends, with the seconds of it.
MEASURE = """
import time
from airflow.sdk._shared.observability.metrics.otel_logger import flush_otel_metrics
from airflow.sdk.observability.metrics.otel_logger import get_otel_logger
get_otel_logger().incr("%s")
began = time.monotonic()
flush_otel_metrics()
print(time.monotonic() - began)
"""
FAILED = "Failed to export metrics"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Panel and query, variables replaced as Grafana would."""
    for path in sorted((MONITORING / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$dag", ".*").replace("$__rate_interval", "2m")
                yield f"{path.stem}: {panel['title']} {target['refId']}", expression


def alert_selectors() -> Iterator[tuple[str, str]]:
    """What each alert looks at: metric and labels. Of an error code only that the code is there; nothing failed."""
    for rule in (rule for group in RULES for rule in group["rules"]):
        expression = re.sub(r"\bon \(\w+\)|\bby \(\w+\)", "", rule["expr"])
        found = re.findall(r"\b(?:up|[a-z]+_[a-z_]+)\b(?!\()(?:\{[^}]*\})?", expression)
        for selector in sorted(set(found) - {"histogram_quantile"}):
            yield f"{rule['alert']}: {selector}", selector.replace('"5.."', '"..."')


@dataclass(frozen=True)
class Watched:
    """The stack with its monitoring, and the messages that reached the receiver."""

    stack: Stack
    prometheus: str
    messages: list[dict[str, Any]]

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=120).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return list(answer["data"]["result"])

    def values(self, expression: str) -> list[float]:
        return [float(one["value"][1]) for one in self.query(expression)]


def wait_for(true: Callable[[], object], what: str, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(1)


@pytest.fixture(scope="module")
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An HTTP server on this machine, as the containers reach it, and what was posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append({"path": self.path, **json.loads(body)})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    gateway = gateway_of(PROJECT)
    server = http.server.ThreadingHTTPServer((gateway, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{gateway}:{server.server_port}/services/T0/B0/token", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def hurried(folder: Path) -> Path:
    """The files of Prometheus and vmagent with seconds for minutes, and the override that puts them in place."""

    def changed(name: str, old: str, new: str) -> str:
        text, count = re.subn(old, new, (MONITORING / name).read_text())
        assert count, f"{name} has no {old}"
        (folder / name).write_text(text)
        return f"{folder / name}:/etc/{'vmagent' if 'vmagent' in name else 'prometheus'}/{name}:ro"

    services: dict[str, Any] = {
        "prometheus": {
            "volumes": [
                changed("prometheus.yml", "_interval: 15s", "_interval: 2s"),
                changed("alerts.yml", r"for: \d+m", "for: 2s"),
            ]
        },
        "vmagent": {"volumes": [changed("vmagent.yml", "interval: 15s", "interval: 2s")]},
        "node-exporter": {"volumes": [f"{folder}/textfile:/textfile:ro"]},
    }
    (folder / "textfile").mkdir()
    names = ("backup_last_success_timestamp_seconds", "backup_drill_last_success_timestamp_seconds")
    nightly_backup.write_metrics(folder / "textfile" / "backup.prom", dict.fromkeys(names, time.time()))
    for name in AIRFLOW:
        unscheduled = UNSCHEDULED["services"].get(name, {}).get("environment", {})
        services[name] = {"environment": unscheduled | TURNED_ON}
    override = folder / "override.yml"
    override.write_text(json.dumps({"services": services}))
    return override


@pytest.fixture(scope="module")
def watched(
    airflow: Stack, admin: User, receiver: tuple[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """The profile's services beside the running stack, a run that ended well, and predictions."""
    subprocess.run([ROOT / "tests/stack/stand_ins.sh", *SERVICES], check=True)
    folder = tmp_path_factory.mktemp("watching")
    variables = airflow.variables | {
        "NOTIFY_SLACK_WEBHOOK_URL": receiver[0],
        "NOTIFY_HEARTBEAT_URL": receiver[0] + "/heartbeat",
    }
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    stack = Stack(env_file, variables)
    up = ["--profile", "monitoring", "up", "--detach", "--wait", "--wait-timeout", "1800", *SERVICES, *AIRFLOW]
    try:
        stack.compose(*up, file=FILE, override=hurried(folder))
        wait_for(lambda: admin.ask("GET", DAG).status_code == 200, "the dag-processor found no daily_training")
        trigger(admin, WATCHED_RUN, epochs=1)  # its own, since Airflow sends metrics from here on
        assert admin.ask("PATCH", DAG, {"is_paused": False}).status_code == 200
        assert ended(admin, WATCHED_RUN)[0] == "success"
        watched = Watched(stack, f"http://127.0.0.1:{variables['PROMETHEUS_PORT']}", receiver[1])
        picture = io.BytesIO()
        Image.new("RGB", (32, 32), (90, 120, 200)).save(picture, "PNG")

        def predicted() -> bool:
            for _ in range(5):
                files = {"image": ("x.png", picture.getvalue(), "image/png")}
                answer = requests.post(f"{stack.serving_url}/predict_image", files=files, timeout=120)
                assert answer.status_code == 200, answer.text
            return sum(watched.values("increase(serving_predictions_total[1m])")) > 0

        wait_for(predicted, "no prediction was seen")
        yield watched
    finally:
        stack.compose("--profile", "monitoring", "rm", "--stop", "--force", *SERVICES, "monitoring-init", file=FILE)


@pytest.mark.parametrize("expression", [pytest.param(q, id=name) for name, q in dashboard_queries()])
def test_every_panel_has_something_to_show(watched: Watched, expression: str) -> None:
    def shown() -> list[float]:
        return [value for value in watched.values(expression) if not math.isnan(value)]

    wait_for(shown, f"{expression} gives {watched.query(expression)}")


@pytest.mark.parametrize("selector", [pytest.param(s, id=name) for name, s in alert_selectors()])
def test_every_alert_looks_at_something_that_is_there(watched: Watched, selector: str) -> None:
    assert watched.query(selector)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for group in RULES for rule in group["rules"]])
def test_every_alert_is_evaluated_by_prometheus(watched: Watched, rule: dict[str, Any]) -> None:
    groups = requests.get(f"{watched.prometheus}/api/v1/rules", timeout=120).json()["data"]["groups"]
    [loaded] = [one for group in groups for one in group["rules"] if one["name"] == rule["alert"]]
    assert loaded["health"] == "ok", loaded
    watched.query(rule["expr"])


def test_all_targets_are_up(watched: Watched) -> None:
    assert {one["metric"]["job"]: one["value"][1] for one in watched.query("up")} == dict.fromkeys(
        ["serving", "mlflow", "postgres", "vmagent", "node", "alertmanager", "prometheus"], "1"
    )


def test_the_metrics_are_what_airflow_says(watched: Watched, admin: User) -> None:
    [paused] = watched.values('airflow_dag_paused{dag_id="daily_training"}')
    assert bool(paused) is admin.ask("GET", DAG).json()["is_paused"]
    for state in ("success", "failed"):
        [seen] = watched.values(f'airflow_dag_runs_count{{dag_id="daily_training", state="{state}"}}')
        assert seen == admin.ask("GET", f"{DAG}/dagRuns?state={state}").json()["total_entries"]
    [last] = watched.values('airflow_dag_last_success_timestamp_seconds{dag_id="daily_training"}')
    assert 0 < time.time() - last < 3600


def test_every_task_is_counted_once_by_what_its_process_sent(watched: Watched, admin: User) -> None:
    found = admin.ask("GET", f"{DAG}/dagRuns/{WATCHED_RUN}/taskInstances").json()["task_instances"]
    tasks = [task for task in found if task["hostname"]]  # what the scheduler skips has no process
    expected = {(task["task_id"], task["state"]): 1.0 for task in tasks}
    counted = 'sum by (task_id, state) (sum_over_time(airflow_ti_finish_delta{dag_id="daily_training"}[1h]))'

    def seen() -> dict[tuple[str, str], float]:
        return {
            (one["metric"]["task_id"], one["metric"]["state"]): float(one["value"][1]) for one in watched.query(counted)
        }

    wait_for(lambda: seen() == expected, f"{seen()} in place of {expected}")
    took = "sum by (task_id) (sum_over_time(airflow_task_duration_milliseconds_sum_delta[1h])) / 1000"
    measured = {one["metric"]["task_id"]: float(one["value"][1]) for one in watched.query(took)}
    # Airflow's database has the start of the process in it, the metric only what the operator did.
    ran = [task for task in tasks if task["state"] == "success"]  # one that skips itself sends no duration
    assert all(0 < measured[task["task_id"]] < task["duration"] + 0.5 for task in ran), (measured, tasks)


def test_what_is_measured_while_prometheus_is_away_arrives_when_it_is_back(watched: Watched) -> None:
    watched.stack.compose("stop", "prometheus", file=FILE)
    try:
        # A process gives vmagent two seconds to take what it has measured; on a busy host that may be too short.
        for probe in ("probe_one", "probe_two", "probe_three"):
            sent = in_service("airflow-scheduler", MEASURE % probe)
            assert sent.returncode == 0, sent.stderr
            if FAILED not in sent.stdout + sent.stderr:
                break
        else:
            raise AssertionError(sent.stdout + sent.stderr)
    finally:
        watched.stack.compose("start", "prometheus", file=FILE)

    def back() -> list[float]:
        try:
            return watched.values(f"sum(sum_over_time(airflow_{probe}_delta[10m]))")
        except (requests.ConnectionError, requests.JSONDecodeError):  # starting, and replaying its log
            return []

    wait_for(back, "the probe did not arrive")
    assert back() == [1.0]


@pytest.mark.parametrize(("ends", "begins"), [("stop", "start"), ("pause", "unpause")], ids=["gone", "silent"])
def test_a_task_does_not_wait_for_a_receiver_of_its_metrics(watched: Watched, ends: str, begins: str) -> None:
    watched.stack.compose(ends, "vmagent", file=FILE)
    try:
        sent = in_service("airflow-scheduler", MEASURE % "unheard")
    finally:
        watched.stack.compose(begins, "vmagent", file=FILE)
    assert sent.returncode == 0, sent.stderr
    assert FAILED in sent.stdout + sent.stderr  # else nothing was away
    assert float(sent.stdout.splitlines()[-1]) < 3  # OTEL_EXPORTER_OTLP_METRICS_TIMEOUT is 2


def test_the_model_in_service_is_the_one_the_service_names(watched: Watched) -> None:
    info = requests.post(f"{watched.stack.serving_url}/get_model_info", timeout=120).json()
    [seen] = watched.query("serving_model_info")
    assert seen["metric"]["model_version"] == str(info["model_version"])
    assert seen["metric"]["run_id"] == info["run_id"]


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("SELECT count(*) >= 1 FROM (SELECT dag_id, is_paused FROM dag) d", "t"),
        ("SELECT conf FROM dag_run", "permission denied"),
        ("SELECT password FROM connection", "permission denied"),
        ("SELECT * FROM ab_user", "permission denied"),
        ("UPDATE dag SET is_paused = true", "read-only transaction"),
        ("BEGIN READ WRITE; UPDATE dag SET is_paused = true", "permission denied"),
    ],
)
def test_the_exporters_user_reads_what_it_needs_and_no_more(watched: Watched, query: str, answer: str) -> None:
    done = watched.stack.psql("monitoring", "airflow", query)
    assert answer in done.stdout + done.stderr


def test_the_heartbeat_is_heard_elsewhere_and_the_team_is_left_alone(watched: Watched) -> None:
    def heard() -> list[dict[str, Any]]:
        return [message for message in watched.messages if message["path"].endswith("/heartbeat")]

    wait_for(heard, "nobody heard the heartbeat")
    assert {alert["labels"]["alertname"] for message in heard() for alert in message["alerts"]} == {"Heartbeat"}
    assert "Heartbeat" not in json.dumps([message for message in watched.messages if message not in heard()])


def test_an_alert_reaches_the_team_and_names_what_is_down(watched: Watched) -> None:
    watched.stack.compose("stop", "serving", file=FILE)
    try:
        wait_for(lambda: [m for m in watched.messages if "ServiceDown" in json.dumps(m)], "nobody was told")
    finally:
        watched.stack.compose("start", "serving", file=FILE)
    [message, *_] = [m for m in watched.messages if "ServiceDown" in json.dumps(m)]
    assert message["path"] == "/services/T0/B0/token"
    [attachment] = message["attachments"]
    assert attachment["title"] == "ALERT: ServiceDown"
    assert "The service does not answer" in attachment["text"]

    def ready() -> bool:
        try:
            return requests.get(f"{watched.stack.serving_url}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    wait_for(ready, "the service did not come back")


def test_the_address_of_the_team_is_shown_by_no_page(watched: Watched) -> None:
    port = watched.stack.variables["ALERTMANAGER_PORT"]
    status = requests.get(f"http://127.0.0.1:{port}/api/v2/status", timeout=120).text
    assert "slack" in status
    assert "token" not in status
