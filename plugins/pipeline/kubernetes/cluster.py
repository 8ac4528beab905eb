"""The few calls that a stage makes to a Kubernetes cluster, whose API server may be unreachable for a while."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import urllib3
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.stream import stream as websocket
from websocket import WebSocketException

from pipeline.kubernetes import reasons
from pipeline.kubernetes.pod import GRACE, KEY, RESULT_PATH, SIDECAR, STAGE, key_label
from pipeline.operator import log_stream
from tasks.errors import ResultError, UnavailableError

LARGEST_RESULT = 1 << 20  # bytes; results are IDs and numbers
POLL = 0.5  # seconds between two reads of a pod
PATIENCE = 120.0  # seconds that the API server may be unreachable, for example during its upgrade
QUIET = 60.0  # seconds after which a silent log stream is reopened
CLOCKS = 60  # seconds that the clocks of a node and of this machine may differ
REMOVAL = 90.0  # seconds for a deleted pod to end; kubelets take up to a minute to report it
BUSY = (429, 500, 502, 503, 504)
UNREACHABLE = (urllib3.exceptions.HTTPError, OSError)

# Read as base64: websocket frames may split a character. What is not a file, or too large, is reported, not sent.
READ_RESULT = (
    f"f={RESULT_PATH}; [ -e $f ] || {{ echo none; exit; }}; [ -f $f ] || {{ echo folder; exit; }}; "
    f"wc -c <$f; head -c {LARGEST_RESULT} $f | base64"
)

Answer = TypeVar("Answer")


class PodGoneError(Exception):
    """The pod no longer exists."""


class Cluster:
    """One namespace of a cluster, accessed through the API with the rights of Airflow's account."""

    def __init__(self, core: CoreV1Api, namespace: str) -> None:
        self._core = core
        self.namespace = namespace

    def create(self, pod: k8s.V1Pod) -> None:
        """Create a pod; a repeated request after a lost answer creates no second one."""

        def call() -> None:
            try:
                self._core.create_namespaced_pod(self.namespace, pod)
            except ApiException as error:
                if error.status != 409:  # the name is random, so it is ours
                    raise

        self._call("create a pod", call)

    def read(self, name: str) -> k8s.V1Pod:
        """Read a pod.

        Raises:
            PodGoneError: it no longer exists.
        """
        try:
            return self._call("get a pod", lambda: self._core.read_namespaced_pod(name, self.namespace), gone=True)
        except ApiException as error:
            raise PodGoneError(name) from error

    def find(self, key: str) -> list[k8s.V1Pod]:
        """Pods of all tries of a job, newest first."""
        selector = f"{KEY}={key_label(key)}"
        listed = self._call(
            "list pods", lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector)
        ).items
        mine = [pod for pod in listed if (pod.metadata.annotations or {}).get(KEY) == key]
        return sorted(mine, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)

    def delete(self, name: str) -> None:
        """Delete a pod; returns before it has ended. Does nothing when it is gone already."""

        def call() -> None:
            try:
                self._core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=GRACE)
            except ApiException as error:
                if error.status != 404:
                    raise

        self._call("delete a pod", call)

    def await_end(self, name: str) -> None:
        """Wait until no container of a deleted pod runs; its entry in the API may stay longer.

        Raises:
            UnavailableError: it still runs, as on a lost node.
        """
        limit = time.monotonic() + REMOVAL
        while time.monotonic() < limit:
            try:
                if not _runs(self.read(name)):
                    return
            except PodGoneError:
                return
            time.sleep(POLL)
        raise UnavailableError(
            f"pod {name} of an earlier try still runs {REMOVAL:.0f} s after it was deleted; check its node "
            f"(kubectl -n {self.namespace} describe pod {name})"
        )

    def follow_logs(self, name: str) -> Iterator[str]:
        """Yield the output of the stage's container, line by line, until it has ended.

        Raises:
            PodGoneError: the pod was removed.
        """

        def opened(after: log_stream.Moment) -> Iterator[bytes]:
            since = None if after == log_stream.BEGINNING else max(1, int(time.time()) - after[0] + CLOCKS)
            try:
                response = self._core.read_namespaced_pod_log(
                    name, self.namespace, container=STAGE, follow=True, timestamps=True, since_seconds=since,
                    _preload_content=False, _request_timeout=(10.0, QUIET),
                )  # fmt: skip
            except ApiException as error:
                if error.status == 400 and not running():
                    return  # its node has deleted the log already
                if error.status in (400, *BUSY):
                    raise ConnectionError(error.reason) from error
                raise
            try:
                yield from response.stream(amt=None, decode_content=False)
            finally:
                response.release_conn()

        def running() -> bool:
            pod = self.read(name)
            return reasons.ended(pod) is None and not reasons.over(pod) and not _abandoned(pod)

        try:
            yield from log_stream.follow(opened, running, UNREACHABLE)
        except ApiException as error:
            if error.status == 404:
                raise PodGoneError(name) from error
            raise reasons.refused(error, "read a pod's log", self.namespace) from error

    def result(self, name: str) -> bytes | None:
        """Read the result file through the sidecar, which keeps it; None when the stage left none.

        Raises:
            ResultError: it is not a file, or too large.
            UnavailableError: the sidecar does not answer.
        """
        said = self._call("run a command in a pod", lambda: self._execute(name, READ_RESULT))
        size, _, content = said.partition("\n")
        if size.strip() == "none":
            return None
        if size.strip() == "folder":
            raise ResultError(f"{RESULT_PATH} is not a file; the stage must write its JSON result there")
        try:
            length, result = int(size), base64.b64decode("".join(content.split()), validate=True)
        except (ValueError, binascii.Error):
            raise UnavailableError(f"the result of pod {name} could not be read: {said[:200]!r}; try again") from None
        if length > LARGEST_RESULT:
            raise ResultError(f"{RESULT_PATH} has {length} bytes; a result has at most {LARGEST_RESULT}")
        if length != len(result):
            raise UnavailableError(
                f"received only {len(result)} of {length} bytes of the result of pod {name}; try again"
            )
        return result

    def last_warning(self, name: str) -> str:
        """The cluster's last warning about a pod, or an empty string; the right to read events is optional."""
        try:
            events = self._core.list_namespaced_event(
                self.namespace, field_selector=f"involvedObject.name={name},type=Warning"
            ).items
        except (ApiException, *UNREACHABLE):
            return ""
        return f"{events[-1].reason}: {events[-1].message}" if events else ""

    def _execute(self, name: str, script: str) -> str:
        """Run a shell script in the sidecar and return what it printed."""
        try:
            return str(
                websocket(
                    self._core.connect_get_namespaced_pod_exec, name, self.namespace, container=SIDECAR,
                    command=["sh", "-c", script], stdin=False, stdout=True, stderr=True, tty=False,
                    _request_timeout=60,
                )
            )  # fmt: skip
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error
        except AttributeError as error:
            # The client fails on a refused websocket, which has no body; the refusal is the context of its error.
            if not isinstance(error.__context__, ApiException):
                raise
            raise reasons.of_handshake(error.__context__) from error

    def _call(self, doing: str, call: Callable[[], Answer], *, gone: bool = False) -> Answer:
        """Call the API server, and retry while it is unreachable.

        Args:
            doing: what the call does, for the error's text.
            call: makes the call.
            gone: let the answer 404 through.

        Raises:
            PipelineError: it refused, or stayed unreachable; the text says which, and the fix.
        """
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                return call()
            except ApiException as error:
                if gone and error.status == 404:
                    raise
                # 0: there was no answer at all.
                if error.status not in (0, *BUSY) or time.monotonic() > limit:
                    raise reasons.refused(error, doing, self.namespace) from error
            except UNREACHABLE as error:
                if time.monotonic() > limit:
                    host = self._core.api_client.configuration.host
                    raise UnavailableError(f"no Kubernetes API answers at {host} ({error})") from error
            time.sleep(2 * POLL)


def _runs(pod: k8s.V1Pod) -> bool:
    statuses: list[Any] = list(pod.status.container_statuses or ())
    return not reasons.over(pod) and any(one.state is not None and one.state.running is not None for one in statuses)


def _abandoned(pod: k8s.V1Pod) -> bool:
    """Tell whether a pod was deleted so long ago that its node will no longer report how it ended."""
    deletion = pod.metadata.deletion_timestamp
    return deletion is not None and (datetime.now(UTC) - deletion).total_seconds() > REMOVAL
