"""What the channels refuse, against real local servers."""

from __future__ import annotations

import http.server
import json
import smtplib
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError

import pytest

from pipeline.dag_parts.notifications import Message, post_to_slack, send_mail

MESSAGE = Message("daily_training: train failed", "no data", "http://127.0.0.1/log", "manual__1")


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[Any]:
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


class Gone(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Keep pytest's output clean."""


def test_a_webhook_that_was_removed_is_an_error() -> None:
    with (
        serving(http.server.HTTPServer(("127.0.0.1", 0), Gone)) as server,
        pytest.raises(HTTPError, match="404"),
    ):
        post_to_slack(f"http://127.0.0.1:{server.server_port}/hook", MESSAGE)


def test_text_from_the_data_calls_nobody_in_slack() -> None:
    heard: list[str] = []

    class Webhook(Gone):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

    evil = Message("daily_training: v1 was refused", "accuracy of <!channel> & <http://spy|here>", "http://a/?b&c", "r")
    with serving(http.server.HTTPServer(("127.0.0.1", 0), Webhook)) as server:
        post_to_slack(f"http://127.0.0.1:{server.server_port}/hook", evil)
    [text] = heard
    assert "accuracy of &lt;!channel&gt; &amp; &lt;http://spy|here&gt;" in text
    assert text.endswith("http://a/?b&amp;c")


def test_a_password_is_not_sent_without_encryption() -> None:
    heard: list[bytes] = []

    class Plain(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            for line in iter(self.rfile.readline, b""):
                heard.append(line)
                self.wfile.write(b"250-here\r\n250 AUTH PLAIN\r\n" if line.startswith(b"ehlo") else b"221 bye\r\n")
                if line.lower().startswith(b"quit"):
                    return

    with serving(socketserver.TCPServer(("127.0.0.1", 0), Plain)) as server:
        port = server.server_address[1]
        with pytest.raises(smtplib.SMTPException, match="no encryption"):
            send_mail(f"smtp://user:s3cret@127.0.0.1:{port}/?from=a@example.org&to=b@example.org", MESSAGE)
    assert [line[:4].lower() for line in heard] == [b"ehlo", b"quit"]
