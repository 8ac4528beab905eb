"""The socket proxy in front of a real engine: who breaks into a task gets no further than the operator would."""

from __future__ import annotations

import copy
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from tests.stack.docker_runtime.conftest import PORT
from tests.waiting import until

pytestmark = pytest.mark.docker

ATTACK = f"attack-{secrets.token_hex(4)}"  # other sessions have the same engine
FIELDS = ("key", "stage", "dag_id", "dag_run_id", "task_id")


@pytest.fixture
def config(client: docker.DockerClient, names: SimpleNamespace, proxy: str) -> dict[str, Any]:
    """What the operator would create a container with; the stage sleeps."""
    return {
        **{"Tty": False, "OpenStdin": False, "StdinOnce": False, "AttachStdin": False, "AttachStdout": True},
        **{"AttachStderr": True, "NetworkDisabled": False},
        "Env": ["STUB=print('up'); time.sleep(600)"],
        "Cmd": ["register", "--request", "{}"],
        "Image": client.images.get(f"{names.prefix}/register:dev").id,
        "Labels": {f"pipeline.{field}": "register" for field in FIELDS},
        "HostConfig": {
            **{"Memory": 96 << 20, "MemorySwap": 96 << 20, "ShmSize": 32 << 20},
            **{"ReadonlyRootfs": True, "NetworkMode": names.network, "CapDrop": ["ALL"], "Init": True},
            "SecurityOpt": ["no-new-privileges:true"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "2"}},
            "Mounts": [{"Target": "/airflow/xcom", "Source": None, "Type": "volume", "ReadOnly": False}],
        },
    }


@pytest.fixture
def nothing_made(client: docker.DockerClient) -> Iterator[None]:
    """See that no container was created."""
    yield
    made = client.containers.list(all=True, filters={"name": ATTACK})
    for container in made:
        container.remove(force=True, v=True)
    assert made == []


def send(raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", PORT), 120) as client:
        client.sendall(raw)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def creating(content: bytes | dict[str, Any], *headers: str, name: str | None = None) -> bytes:
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    name = name or f"{ATTACK}-register-{secrets.token_hex(6)}"
    lines = [f"POST /v1.41/containers/create?name={name} HTTP/1.1", "Host: a", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", *headers, "", ""]).encode() + content


def refusal(raw: bytes) -> str:
    came = send(raw)
    assert came.startswith(b"HTTP/1.1 403 "), came[:300]
    return str(json.loads(came.partition(b"\r\n\r\n")[2])["message"])


Change = Callable[[dict[str, Any]], object]
ATTACKS: dict[str, Change] = {
    "privileged": lambda host: host.update(Privileged=True),
    "privileged, another spelling": lambda host: host.update(pRiViLeGeD=True),
    "the root folder": lambda host: host.update(Binds=["/:/host"]),
    "the root folder, another spelling": lambda host: host.update(binds=["/:/host"]),
    "the root folder as a mount": lambda host: host["Mounts"].append(
        {"Type": "bind", "Source": "/", "Target": "/sources/", "ReadOnly": True}
    ),
    "the root folder as a volume": lambda host: host["Mounts"].append(
        {
            "Type": "volume",
            "Target": "/tmp",  # noqa: S108
            "ReadOnly": False,
            "VolumeOptions": {
                "DriverConfig": {"Name": "local", "Options": {"type": "none", "o": "bind", "device": "/"}}
            },
        }
    ),
    "the engine's socket": lambda host: host["Mounts"].append(
        {"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/sources/var/run/docker.sock", "ReadOnly": True}
    ),
    "volumes of another container": lambda host: host.update(VolumesFrom=["vision-mlops-postgres-1"]),
    "the machine's network": lambda host: host.update(NetworkMode="host"),
    "the machine's processes": lambda host: host.update(PidMode="host"),
    "a device": lambda host: host.update(Devices=[{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg"}]),
    "a capability": lambda host: host.update(CapAdd=["SYS_ADMIN"]),
    "no seccomp": lambda host: host.update(SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"]),
    "no limit": lambda host: host.update(Memory=0, MemorySwap=0),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_container_gets_more_than_a_stage(config: dict[str, Any], nothing_made: None, attack: str) -> None:
    ATTACKS[attack](config["HostConfig"])
    assert "the socket proxy refused this call: HostConfig" in refusal(creating(config))


def test_no_other_image_is_started(config: dict[str, Any], names: SimpleNamespace, nothing_made: None) -> None:
    assert "is neither" in refusal(creating(config | {"Image": "python:3.11-slim-bookworm"}))
    other = docker.from_env().images.get("python:3.11-slim-bookworm").id
    assert f"is not that of {names.prefix}/register:dev" in refusal(creating(config | {"Image": other}))


def test_no_body_is_read_in_two_ways(config: dict[str, Any], nothing_made: None) -> None:
    text = json.dumps(config)
    privileged = copy.deepcopy(config)
    privileged["HostConfig"]["Privileged"] = True
    evil = json.dumps(privileged["HostConfig"])
    for twice in (f'{{"HostConfig": {evil}, {text[1:]}', f'{text[:-1]}, "HostConfig": {evil}}}'):
        assert "a name is there twice" in refusal(creating(twice.encode()))
        assert "a name is there twice" in refusal(creating(twice.replace('"HostConfig"', '"hostconfig"', 1).encode()))
    chunk = json.dumps(privileged).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(chunk), chunk)
    assert "transfer-encoding" in refusal(creating(chunked, "Transfer-Encoding: chunked"))
    huge = creating(b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999")
    assert "Content-Length" in refusal(huge + b" " * (8 << 20))


def test_no_second_request_is_smuggled(config: dict[str, Any], nothing_made: None) -> None:
    config["HostConfig"]["Privileged"] = True
    came = send(b"GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n" + creating(config))
    assert came.startswith(b"HTTP/1.1 200 OK")
    assert came.count(b"HTTP/1.1") == 1


@pytest.fixture
def stage(
    config: dict[str, Any], client: docker.DockerClient, names: SimpleNamespace
) -> Iterator[docker.models.containers.Container]:
    """A stage that runs, made through the proxy."""
    name = f"{names.prefix}-register-{secrets.token_hex(6)}"
    came = send(creating(config, name=name))
    assert came.startswith(b"HTTP/1.1 201 "), came
    container = client.containers.get(name)
    try:
        answer = send(f"POST /v1.41/containers/{container.id}/start HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 204 "), answer
        yield container
    finally:
        container.remove(force=True, v=True)


@pytest.mark.parametrize(
    "call",
    [
        "POST /v1.41/containers/{id}/exec",
        "POST //containers/{id}/exec",
        "POST /v1.41/containers/{id}/../{id}/exec",
        "POST /v1.41/containers/{id}%2Fexec",
        "POST /v1.41/containers/{id}/attach?stdin=1",
        "POST /v1.41/containers/{id}/update",
        "GET /v1.41/containers/{id}/archive?path=/etc/passwd",
        "PUT /v1.41/containers/{id}/archive?path=/tmp",
        "POST /v1.41/containers/{id}/rename?name=mlflow",
        "POST /v1.41/commit?container={id}",
        "GET /v1.41/info",
        "GET /v1.41/volumes",
        "GET /v1.41/images/json",
        "GET /v1.41/containers/json?all=1",
        "POST /v1.41/images/create?fromImage=python",
        "POST /v1.41/build",
    ],
)
def test_not_even_with_a_stage_may_other_things_be_done(stage: Any, call: str) -> None:
    lines = f"{call.format(id=stage.id)} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    assert "the socket proxy refused this call" in refusal(lines.encode())


def test_another_installations_container_is_left_alone(
    client: docker.DockerClient, names: SimpleNamespace, proxy: str
) -> None:
    """It has the label of a stage, and the network of its own stack."""
    other = client.containers.run(
        f"{names.prefix}/register:dev",
        entrypoint=["sleep", "600"],
        detach=True,
        name=f"{names.prefix}-{secrets.token_hex(4)}",
        labels={"pipeline.key": "d/r/t/-1"},
    )
    for call in ("POST {}/stop?t=0", "DELETE {}?force=1", "GET {}/json", "GET {}/logs?stdout=1", "POST {}/start"):
        method, path = call.format(f"/v1.41/containers/{other.id}").split(" ")
        assert "is not that of a stage on the network" in refusal(
            f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )
    other.reload()
    assert other.status == "running"


def test_a_log_that_nobody_reads_is_no_longer_followed(stage: Any) -> None:
    """The engine would keep a connection for every reader that ever left."""
    path = f"/v1.41/containers/{stage.id}/logs?stdout=1&follow=1"
    with socket.create_connection(("127.0.0.1", PORT), 120) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        came = b""
        while b"up" not in came:
            came += client.recv(1 << 16)
        client.shutdown(socket.SHUT_WR)
        assert until(lambda: client.recv(1 << 16) == b"", 60)
