"""Real DAG runs tell a local webhook and a local mail server what happened."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from email import message_from_string, policy
from email.message import EmailMessage
from typing import Any

import pytest

from tests.dags.forked import Forks

SCENARIOS = {
    "promoted": {"stub": {}},
    "refused": {"stub": {"refused": "register"}},
    "failed": {"stub": {"fail": "train", "code": 65}},
}


class Webhook(http.server.BaseHTTPRequestHandler):
    """What Slack's incoming webhooks are: JSON in, `ok` out."""

    posts: list[Any]

    def do_POST(self) -> None:
        self.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        """Keep pytest's output clean."""


class MailServer(socketserver.StreamRequestHandler):
    """As much of SMTP as one unauthenticated mail needs."""

    mails: list[EmailMessage]

    def handle(self) -> None:
        self.say("220 here")
        for line in iter(self.rfile.readline, b""):
            command = line[:4].upper()
            if command == b"DATA":
                self.say("354 go on")
                lines = [line.decode() for line in iter(self.rfile.readline, b".\r\n")]
                mail = message_from_string("".join(lines), policy=policy.default)
                assert isinstance(mail, EmailMessage)
                self.mails.append(mail)
            self.say("221 bye" if command == b"QUIT" else "250 fine")
            if command == b"QUIT":
                return

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Any]]:
    """A webhook and a mail server, what they were told, and the variables that name them."""
    posts: list[Any] = []
    mails: list[Any] = []
    webhook = type("Posts", (Webhook,), {"posts": posts})
    mail = type("Mails", (MailServer,), {"mails": mails})
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), webhook) as slack,
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), mail) as smtp,
    ):
        for server in (slack, smtp):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield {
            "posts": posts,
            "mails": mails,
            "variables": {
                "NOTIFY_SLACK_WEBHOOK_URL": f"http://127.0.0.1:{slack.server_port}/services/T0/B0/hook-s3cret",
                "NOTIFY_SMTP_URL": f"smtp://127.0.0.1:{smtp.server_address[1]}/?from=mlops@example.org"
                "&to=one@example.org,two@example.org",
            },
        }
        slack.shutdown()
        smtp.shutdown()


@pytest.fixture(scope="module")
def told(airflow: dict[str, str], forks: Forks, servers: dict[str, Any]) -> dict[str, Any]:
    """What the two servers got from one promoted, one refused and one failed run.

    Then one more run with servers that are away, and one without any.
    """
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as unused:
        port = unused.server_address[1]
    away = {
        "NOTIFY_SLACK_WEBHOOK_URL": f"http://127.0.0.1:{port}/services/hook-s3cret",
        "NOTIFY_SMTP_URL": f"smtp://127.0.0.1:{port}/?from=a@example.org&to=b@example.org",
    }
    scenarios = [
        *SCENARIOS.values(),
        SCENARIOS["promoted"] | {"variables": away},
        SCENARIOS["refused"] | {"variables": dict.fromkeys(away, "")},
    ]
    variables = {**airflow, **servers["variables"]}
    done = forks.run("import run_scenarios; run_scenarios.main()", json.dumps(scenarios), variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"runs": json.loads(done.stdout.splitlines()[-1]), "said": done.stdout + done.stderr, **servers}


def test_each_event_is_told_once_with_reason_and_link(told: dict[str, Any]) -> None:
    promoted, refused, failed = [post["text"].splitlines() for post in told["posts"]]
    assert promoted[:2] == ["daily_training: m version 12 is champion", "first"]
    assert promoted[3] == f"http://127.0.0.1:5000/#/experiments/1/runs/{'f' * 32}"
    assert refused[0] == "daily_training: m version 12 was refused, the champion stays"
    assert failed[:2] == [
        "daily_training: train failed",
        "train ended with exit code 65: DataError: the source is empty",
    ]
    assert "/dags/daily_training/runs/" in failed[3]
    assert "/tasks/train" in failed[3]


def test_the_mail_says_the_same(told: dict[str, Any]) -> None:
    assert [mail["Subject"] for mail in told["mails"]] == [post["text"].splitlines()[0] for post in told["posts"]]
    assert [mail.get_content().splitlines() for mail in told["mails"]] == [
        post["text"].splitlines() for post in told["posts"]
    ]
    assert told["mails"][0]["From"] == "mlops@example.org"
    assert told["mails"][0]["To"] == "one@example.org, two@example.org"


def test_no_address_of_a_channel_is_logged(told: dict[str, Any]) -> None:
    assert "hook-s3cret" not in told["said"]


def test_servers_that_are_away_are_said_in_the_log_and_without_a_channel_nothing_is_said(told: dict[str, Any]) -> None:
    assert [run["state"] for run in told["runs"]] == ["success", "success", "failed", "success", "success"]
    assert "notification through Slack failed" in told["said"]
    assert "notification through mail failed" in told["said"]
    assert told["said"].count("notification through") == 2  # where no channel is set, nothing is tried
