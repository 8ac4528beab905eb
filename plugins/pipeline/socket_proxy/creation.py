"""What a container may be created with: what the operator sets, within what this installation allows.

A field that is not listed must be absent or empty, and is not passed on. Env, and the request in Cmd, are free: they
act inside the container only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.operator.local_sources import in_container
from pipeline.socket_proxy.calls import Allowed, json_object
from pipeline.socket_proxy.refusal import Refused, shown

LABELS = frozenset({"pipeline.key", "pipeline.stage", "pipeline.dag_id", "pipeline.dag_run_id", "pipeline.task_id"})
WRITABLE = ("/tmp", "/airflow/xcom")  # noqa: S108  # folders of the container
IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
# Values that the operator always sends.
STREAMS = {
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "AttachStdin": False,
    "AttachStdout": True,
    "AttachStderr": True,
    "NetworkDisabled": False,
}
HARDENED = {
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges:true"],
    "Init": True,
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "2"}},
}
GPUS = {"Driver": "", "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}


@dataclass(frozen=True)
class Creation:
    """A container's configuration that may be passed on, if `image` is what the engine has under `reference`."""

    body: bytes
    stage: str
    image: str
    reference: str


def checked(body: bytes, name: str, allowed: Allowed) -> Creation:
    """Check the body of `POST /containers/create`, and write it anew.

    Args:
        body: as the client sent it.
        name: of the container.
        allowed: what this installation's operator works with.

    Raises:
        Refused: naming the field and what is accepted.
    """
    given = json_object(body)
    _only(given, {"Image", "Cmd", "Env", "Labels", "HostConfig", *STREAMS}, "")
    _exactly(given, STREAMS, "")
    labels = _labels(given.get("Labels"))
    stage = labels["pipeline.stage"]
    if stage not in allowed.images:
        raise Refused(f"Labels.pipeline.stage={shown(stage)} is not a stage")
    if not name.rpartition("-")[0].endswith(f"-{stage}"):
        raise Refused(f"name {shown(name)} does not name the stage {stage}")
    reference, image = allowed.images[stage], given.get("Image")
    if not isinstance(image, str) or not (image == reference or IMAGE_ID.fullmatch(image)):
        raise Refused(f"Image={shown(image)} is neither {reference} nor the ID of an image")
    command = _texts(given.get("Cmd"), "Cmd")
    if len(command) != 3 or command[:2] != [stage, "--request"]:
        raise Refused(f"Cmd is not {stage} --request REQUEST")
    written = {
        **STREAMS,
        "Image": image,
        "Cmd": command,
        "Env": _texts(given.get("Env"), "Env"),
        "Labels": labels,
        "HostConfig": _host_config(given.get("HostConfig"), allowed),
    }
    return Creation(json.dumps(written).encode(), stage, image, reference)


def _host_config(given: Any, allowed: Allowed) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Refused("HostConfig is missing")
    limits = ("Memory", "MemorySwap", "ShmSize", "NanoCpus")
    _only(given, {"NetworkMode", "Mounts", "DeviceRequests", *limits, *HARDENED}, "HostConfig.")
    _exactly(given, {**HARDENED, "NetworkMode": allowed.network}, "HostConfig.")
    written = {**HARDENED, "NetworkMode": allowed.network}
    for name in limits:
        value = given.get(name)
        if name == "NanoCpus" and not value:
            continue  # no limit: all that the engine has
        if type(value) is not int or not 0 < value < 1 << 62:
            raise Refused(f"HostConfig.{name}={shown(value)} is not a limit")
        written[name] = value
    if written["MemorySwap"] != written["Memory"]:
        raise Refused("HostConfig.MemorySwap is not HostConfig.Memory: swap would add to the limit")
    written["Mounts"] = _mounts(given.get("Mounts"), allowed)
    if given.get("DeviceRequests"):
        written["DeviceRequests"] = _gpus(given["DeviceRequests"])
    return written


def _mounts(given: Any, allowed: Allowed) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise Refused("HostConfig.Mounts is missing")
    written = [_mount(one, allowed) for one in given]
    targets = [mount["Target"] for mount in written]
    if len(set(targets)) != len(targets):
        raise Refused("HostConfig.Mounts: two have the same Target")
    return written


def _mount(given: Any, allowed: Allowed) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Refused("HostConfig.Mounts: one is not an object")
    _only(given, {"Type", "Target", "Source", "ReadOnly"}, "HostConfig.Mounts.")
    kind, target, source, read_only = (given.get(name) for name in ("Type", "Target", "Source", "ReadOnly"))
    if kind == "volume":
        if source or target not in WRITABLE or read_only is not False:
            raise Refused(f"HostConfig.Mounts: a volume must be anonymous, writable and at {' or '.join(WRITABLE)}")
        return {"Type": kind, "Target": target, "ReadOnly": False}
    if kind != "bind":
        raise Refused(f"HostConfig.Mounts: Type={shown(kind)} is not volume or bind")
    if not isinstance(source, str) or source not in allowed.roots:
        roots = ",".join(allowed.roots)
        raise Refused(f"HostConfig.Mounts: Source={shown(source)} is not a folder of PIPELINE_SOURCE_ROOTS={roots}")
    if target != in_container(source):
        raise Refused(f"HostConfig.Mounts: Target={shown(target)} is not {in_container(source)}")
    if read_only is not True:
        raise Refused(f"HostConfig.Mounts: {shown(source)} is not ReadOnly")
    return {"Type": kind, "Target": target, "Source": source, "ReadOnly": True}


def _gpus(given: Any) -> list[dict[str, Any]]:
    request = given[0] if isinstance(given, list) and len(given) == 1 else None
    count = request.get("Count") if isinstance(request, dict) else None
    if type(count) is not int or not (count == -1 or 0 < count < 1 << 31):
        raise Refused("HostConfig.DeviceRequests is not a number of GPUs")
    if _canonical(request) != _canonical({**GPUS, "Count": count}):
        raise Refused("HostConfig.DeviceRequests asks for more than a number of GPUs")
    return [{**GPUS, "Count": count}]


def _labels(given: Any) -> dict[str, str]:
    if not isinstance(given, dict) or given.keys() != LABELS:
        raise Refused(f"Labels must be {', '.join(sorted(LABELS))}, and no others")
    if not all(isinstance(value, str) and value for value in given.values()):
        raise Refused("Labels: one is empty or not a text")
    return given


def _only(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for name, value in given.items():
        # `False == 0`: what Docker takes for unset.
        if name not in known and value is not None and value not in (0, "", [], {}):
            raise Refused(f"{where}{shown(name)[1:-1]} is not accepted")


def _exactly(given: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    for name, value in wanted.items():
        if _canonical(given.get(name)) != _canonical(value):
            raise Refused(f"{where}{name}={shown(given.get(name))} is not {json.dumps(value)}")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # unlike ==, tells true from 1


def _texts(given: Any, name: str) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise Refused(f"{name} is not a list of texts")
    return given
