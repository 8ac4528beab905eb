"""Notifies people through Slack and by mail: a failure, a promotion, a refused promotion, a request for approval.

Each channel is one variable (NOTIFY_SLACK_WEBHOOK_URL, NOTIFY_SMTP_URL) and is off when it is unset. A channel that
does not answer is an error line in the task's log and does not change the run.
"""

from __future__ import annotations

import html
import json
import smtplib
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import BaseNotifier

from pipeline.operator.links import run_url
from tasks.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

TIMEOUT = 10.0  # seconds; a callback is part of the task, which must not wait long for a mail server


@dataclass(frozen=True)
class Message:
    """What happened in one line, why, and where to look."""

    subject: str
    reason: str
    link: str
    dag_run: str

    @property
    def text(self) -> str:
        """The whole message."""
        return "\n".join([self.subject, self.reason, f"Run: {self.dag_run}", self.link])


def describe_failure(context: Context) -> Message:
    """A task failed for good: its retries are used up, or a retry cannot help."""
    instance = context["ti"]
    said = str(context.get("exception") or "").strip() or "the task gave no reason; see its log"
    return Message(
        subject=f"{instance.dag_id}: {instance.task_id} failed",
        reason=said.splitlines()[0],
        link=instance.log_url,
        dag_run=instance.run_id,
    )


def describe_promotion(context: Context) -> Message:
    """A model was registered: it is the new champion, or it was refused."""
    instance = context["ti"]
    result: Mapping[str, Any] = instance.xcom_pull(task_ids=instance.task_id)
    outcome = "is champion" if result["promoted"] else "was refused, the champion stays"
    return Message(
        subject=f"{instance.dag_id}: {result['registered_model']} version {result['version']} {outcome}",
        reason=result["reason"],
        link=run_url(result, load_settings()),
        dag_run=instance.run_id,
    )


def describe_question(context: Context) -> Message:
    """A model passed the gate, and a person is asked to approve it."""
    instance = context["ti"]
    approval: Any = context["task"]  # a PromotionApproval
    return Message(
        subject=f"{instance.dag_id}: approve or reject a {approval.model} that passed the gate",
        reason=f"for {context['params']['registered_model']}; the evidence is on the page",
        link=HITLOperator.generate_link_to_ui_from_context(context=context),
        dag_run=instance.run_id,
    )


def post_to_slack(url: str, message: Message) -> None:
    """Post to an incoming webhook, which would read `<...>` as a link or as a call to the whole channel.

    Raises:
        OSError: the server does not answer, or its answer is not 2xx.
    """
    body = json.dumps({"text": html.escape(message.text, quote=False)}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310  # Settings: http(s)
    with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310
        pass


def send_mail(url: str, message: Message) -> None:
    """Send a mail through the server of an `smtp://` or `smtps://` URL; a password is never sent unencrypted.

    Raises:
        OSError: the server does not answer, or refuses (`smtplib.SMTPException` is one).
    """
    server = urlsplit(url)
    query = parse_qs(server.query)
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = message.subject, query["from"][0], ", ".join(query["to"])
    mail.set_content(message.text)
    host, secure = server.hostname or "", server.scheme == "smtps"
    tls = ssl.create_default_context()
    client = (
        smtplib.SMTP_SSL(host, server.port or 465, timeout=TIMEOUT, context=tls)
        if secure
        else smtplib.SMTP(host, server.port or 587, timeout=TIMEOUT)
    )
    with client:
        client.ehlo()
        if not secure and client.has_extn("starttls"):
            client.starttls(context=tls)
            client.ehlo()
            secure = True
        if server.username:
            if not secure:
                raise smtplib.SMTPException("the server offers no encryption for the password; use smtps://")
            client.login(unquote(server.username), unquote(server.password or ""))
        client.send_message(mail)


class PipelineNotifier(BaseNotifier):
    """An Airflow callback that describes an event and sends it through every configured channel."""

    def __init__(self, describe: Callable[[Context], Message]) -> None:
        super().__init__()
        self.describe = describe

    def notify(self, context: Context) -> None:
        """Send; a failure is logged without the channel's URL, which holds a secret."""
        settings = load_settings()
        channels = {
            "Slack": (post_to_slack, settings.notify_slack_webhook_url),
            "mail": (send_mail, settings.notify_smtp_url),
        }
        used = {name: (send, url.get_secret_value()) for name, (send, url) in channels.items() if url is not None}
        if not used:
            return
        message = self.describe(context)
        for name, (send, url) in used.items():
            try:
                send(url, message)
            except OSError as error:
                self.log.error("notification through %s failed: %s", name, error)
            else:
                self.log.info("notification sent through %s: %s", name, message.subject)


failure = PipelineNotifier(describe_failure)
promotion = PipelineNotifier(describe_promotion)
question = PipelineNotifier(describe_question)
