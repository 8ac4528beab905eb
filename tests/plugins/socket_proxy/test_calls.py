"""Which calls are passed on, and how the engine gets them."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from .lab import CREATE, MISSING, OTHER_NETWORK, OURS, THEIRS, Lab, asked, body, posted

FILTERS = '{"label": ["pipeline.key=d/r/t/-1"], "network": ["vision-mlops"]}'
LIST = f"/v1.41/containers/json?limit=-1&all=1&size=0&trunc_cmd=0&filters={quote(FILTERS)}"


@pytest.mark.parametrize(
    ("method", "target", "got"),
    [
        ("GET", "/version", "/version"),
        ("GET", "/v1.41/_ping", "/v1.41/_ping"),
        ("GET", "/v1.41/images/vision-mlops/train:dev/json", "/v1.41/images/vision-mlops/train:dev/json"),
        (
            "GET",
            f"/v1.41/images/vision-mlops/prepare@sha256:{'c' * 64}/json",
            f"/v1.41/images/vision-mlops/prepare%40sha256:{'c' * 64}/json",
        ),
        ("GET", LIST, LIST.replace("%20", "+").replace("/r/t/-1", "%2Fr%2Ft%2F-1")),
        ("POST", f"/v1.52/containers/{OURS}/start", f"/v1.52/containers/{OURS}/start"),
        ("POST", f"/v1.41/containers/{OURS}/stop?t=3", f"/v1.41/containers/{OURS}/stop?t=3"),
        ("GET", f"/v1.41/containers/{OURS}/json", f"/v1.41/containers/{OURS}/json"),
        (
            "GET",
            f"/v1.41/containers/{OURS}/logs?stderr=1&stdout=1&timestamps=1&follow=1&tail=all&since=123",
            f"/v1.41/containers/{OURS}/logs?stderr=1&stdout=1&timestamps=1&follow=1&tail=all&since=123",
        ),
        (
            "GET",
            f"/v1.41/containers/{OURS}/archive?path=%2Fairflow%2Fxcom%2Freturn.json",
            f"/v1.41/containers/{OURS}/archive?path=%2Fairflow%2Fxcom%2Freturn.json",
        ),
        (
            "DELETE",
            f"/v1.41/containers/{OURS}?v=True&link=False&force=True",
            f"/v1.41/containers/{OURS}?v=1&link=False&force=1",
        ),
    ],
)
def test_a_call_of_the_operator_is_passed_on(lab: Lab, method: str, target: str, got: str) -> None:
    assert lab.passed(asked(method, target)) == (f"{method} {got} HTTP/1.1", b"")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *[("GET", path) for path in ("/info", "/events", "/volumes", "/networks", "/secrets", "/images/json", "/")],
        ("POST", f"/v1.41/containers/{OURS}/exec"),
        ("POST", "/v1.41/exec/1/start"),
        ("POST", f"/v1.41/containers/{OURS}/attach"),
        ("POST", f"/v1.41/containers/{OURS}/kill"),
        ("POST", f"/v1.41/containers/{OURS}/rename?name=mlflow"),
        ("POST", f"/v1.41/containers/{OURS}/update"),
        ("POST", "/v1.41/containers/prune"),
        ("POST", "/v1.41/images/create?fromImage=evil"),
        ("POST", "/v1.41/build"),
        ("POST", "/v1.41/commit"),
        ("POST", "/v1.41/networks/vision-mlops/connect"),
        ("PUT", f"/v1.41/containers/{OURS}/archive?path=/"),
        ("DELETE", "/v1.41/images/vision-mlops/train:dev"),
        ("HEAD", f"/v1.41/containers/{OURS}/archive?path=/airflow/xcom/return.json"),
        ("POST", f"/v1.41/containers/{OURS}/json"),
        ("GET", "/v1.41/containers/vision-mlops-postgres-1/json"),  # a name, not an ID
        ("GET", f"/v1.41/containers/{OURS[:12]}/json"),
    ],
)
def test_every_other_call_is_refused(lab: Lab, method: str, target: str) -> None:
    assert "is not a call that the operator makes" in lab.refusal(asked(method, target))


@pytest.mark.parametrize(
    "path",
    [
        f"//containers/{OURS}/json",
        f"/v1.41//containers/{OURS}/json",
        f"/v1.41/containers/../containers/{OURS}/json",
        f"/v1.41/containers/{OURS}/../{THEIRS}/json",
        f"/v1.41/containers/{OURS}/json/",
        f"/v1.41/containers/{OURS}%2Fjson",
        "/v1.41/%63ontainers/create",
        f"/v1.41/containers/{OURS}/json%00",
        f"/v1.41/CONTAINERS/{OURS}/json",
        f"/v1.41/containers/{OURS};x/json",
        f"/v1.41/containers/{OURS}/json#x",
        f"/v1.39/containers/{OURS}/json",
        f"/v2/containers/{OURS}/json",
        f"/v1.41/v1.41/containers/{OURS}/json",
        "/v1.41/images/vision-mlops/train:dev/../../../containers/json",
        "/v1.41/images/vision-mlops/train%2Fx/json",
    ],
)
def test_tricks_with_paths_are_refused(lab: Lab, path: str) -> None:
    assert lab.refusal(asked("GET", path))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/v1.41/images/postgres:17-trixie/json", "image 'postgres:17-trixie' is not the image of a stage"),
        ("/v1.41/images/vision-mlops/train:other/json", "is not the image of a stage"),
        ("/v1.41/containers/json?all=1", "query: filters is missing"),
        ("/v1.41/containers/json", "query: filters is missing"),
        (f"{LIST}&all=1", "'all' is not accepted here, or there twice"),
        (f"{LIST}&before=x", "'before' is not accepted here"),
        (f"/v1.41/containers/json?filters={quote('{}')}", "must have one label"),
        (f"/v1.41/containers/json?filters={quote(FILTERS.replace('pipeline.key=', 'x='))}", "must have one label"),
        (f"/v1.41/containers/json?filters={quote(FILTERS.replace('vision-mlops', 'other'))}", "network vision-mlops"),
        (f"/v1.41/containers/json?filters={quote(FILTERS[:-1] + ', ' + FILTERS[1:])}", "a name is there twice"),
        (f"/v1.41/containers/{OURS}/archive?path=/etc/shadow", "query: path: value '/etc/shadow' is not accepted"),
        (f"/v1.41/containers/{OURS}/archive", "query: path is missing"),
        (f"/v1.41/containers/{OURS}/logs?follow=2", "query: follow: value '2' is not true or false"),
        (f"/v1.41/containers/{OURS}/json?size=1", "'size' is not accepted here"),
        (f"/v1.41/containers/{OURS}/logs?follow=%ff", "cannot be read"),
        (f"/v1.41/containers/{OURS}/logs?follow", "cannot be read"),
    ],
)
def test_a_query_says_only_what_the_operator_says(lab: Lab, target: str, said: str) -> None:
    assert said in lab.refusal(asked("GET", target))


@pytest.mark.parametrize("name", ["mlflow", "stage-train", "stage-prepare-0123456789ab", "a/b-train-0123456789ab", ""])
def test_a_container_is_named_after_its_stage(lab: Lab, name: str) -> None:
    """No stage answers under the name of a service on its network."""
    assert "name" in lab.refusal(posted(f"/v1.41/containers/create?name={name}", body()))


@pytest.mark.parametrize("container", [THEIRS, OTHER_NETWORK])
@pytest.mark.parametrize(
    ("method", "end"),
    [
        ("POST", "/start"),
        ("POST", "/stop?t=3"),
        ("GET", "/json"),
        ("GET", "/logs?stdout=1"),
        ("GET", "/archive?path=/airflow/xcom/return.json"),
        ("DELETE", "?force=True"),
    ],
)
def test_a_container_that_is_no_stage_of_this_stack_is_refused(lab: Lab, container: str, method: str, end: str) -> None:
    said = lab.refusal(asked(method, f"/v1.41/containers/{container}{end}"))
    assert f"container {container[:12]} is not that of a stage on the network vision-mlops" in said


def test_a_container_that_is_gone_is_404(lab: Lab) -> None:
    came = lab.send(asked("DELETE", f"/v1.41/containers/{MISSING}?v=True"))
    assert came.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert json.loads(came.partition(b"\r\n\r\n")[2])["message"] == f"No such container: {MISSING}"
    assert lab.seen == []


def test_a_creation_is_logged_and_a_refusal_too(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.passed(posted(CREATE, body()))
    lab.refusal(asked("GET", "/info"))
    assert [record.getMessage() for record in caplog.records] == [
        f"POST {CREATE}",
        "refused: GET '/info': GET '/info' is not a call that the operator makes",
    ]
