"""What a container may be created with."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from pipeline.docker.operator import WRITABLE, DockerStageOperator
from pipeline.operator.job import StageJob
from pipeline.socket_proxy import creation
from pipeline.socket_proxy.__main__ import allowed_by
from pipeline.socket_proxy.calls import Allowed, match
from tasks.contract.resources import StageResources
from tasks.contract.stages import STAGES
from tasks.settings import load_settings
from tests.plugins.operator.stage_requests import request_of

from .lab import CREATE, IMAGE_ID, LABELS, NAME, OTHER_ID, Lab, body, posted

Change = Callable[[dict[str, Any]], object]


def host(**fields: Any) -> Change:
    return lambda given: given["HostConfig"].update(fields)


def top(**fields: Any) -> Change:
    return lambda given: given.update(fields)


def bind(source: str, target: str | None = None, **more: Any) -> Change:
    made = {"Type": "bind", "Source": source, "Target": target or f"/sources{source}", "ReadOnly": True, **more}
    return lambda given: given["HostConfig"]["Mounts"].append(made)


def volume(**more: Any) -> Change:
    made = {"Type": "volume", "Source": None, "Target": WRITABLE[0], "ReadOnly": False, **more}
    return lambda given: given["HostConfig"]["Mounts"].append(made)


def without(name: str) -> Change:
    return lambda given: given.pop(name, None) or given["HostConfig"].pop(name)


GPU = {"Driver": "", "Count": 1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
REFUSED: list[tuple[Change, str]] = [
    (host(Privileged=True), "HostConfig.Privileged is not accepted"),
    (host(privileged=True), "HostConfig.privileged is not accepted"),
    (host(CapAdd=["SYS_ADMIN"]), "HostConfig.CapAdd is not accepted"),
    (host(CapDrop=[]), 'HostConfig.CapDrop=[] is not ["ALL"]'),
    (host(CapDrop=None), "HostConfig.CapDrop=None"),
    (host(PidMode="host"), "HostConfig.PidMode is not accepted"),
    (host(IpcMode="host"), "HostConfig.IpcMode is not accepted"),
    (host(UTSMode="host"), "HostConfig.UTSMode is not accepted"),
    (host(UsernsMode="host"), "HostConfig.UsernsMode is not accepted"),
    (host(CgroupnsMode="host"), "HostConfig.CgroupnsMode is not accepted"),
    (host(CgroupParent="/"), "HostConfig.CgroupParent is not accepted"),
    (host(NetworkMode="host"), "HostConfig.NetworkMode='host' is not \"vision-mlops\""),
    (host(NetworkMode="container:mlflow"), "HostConfig.NetworkMode"),
    (host(NetworkMode="default"), "HostConfig.NetworkMode"),
    (host(NetworkMode=None), "HostConfig.NetworkMode"),
    (host(SecurityOpt=["no-new-privileges:true", "apparmor=unconfined"]), "HostConfig.SecurityOpt"),
    (host(SecurityOpt=["seccomp=unconfined"]), "HostConfig.SecurityOpt"),
    (host(SecurityOpt=[]), "HostConfig.SecurityOpt"),
    (host(MaskedPaths=[], ReadonlyPaths=["/x"]), "HostConfig.ReadonlyPaths is not accepted"),
    (host(Devices=[{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]), "HostConfig.Devices is not accepted"),
    (host(DeviceCgroupRules=["a *:* rwm"]), "HostConfig.DeviceCgroupRules is not accepted"),
    (host(DeviceRequests=[{**GPU, "Capabilities": [["gpu", "admin"]]}]), "HostConfig.DeviceRequests"),
    (host(DeviceRequests=[{**GPU, "Driver": "cdi", "DeviceIDs": ["x"]}]), "HostConfig.DeviceRequests"),
    (host(DeviceRequests=[{**GPU, "driver": "cdi"}]), "a name is there twice"),
    (host(DeviceRequests=[GPU, GPU]), "HostConfig.DeviceRequests"),
    (host(DeviceRequests=[{**GPU, "Count": True}]), "HostConfig.DeviceRequests"),
    (host(Binds=["/:/host"]), "HostConfig.Binds is not accepted"),
    (host(binds=["/:/host"]), "HostConfig.binds is not accepted"),
    (host(VolumesFrom=["vision-mlops-postgres-1"]), "HostConfig.VolumesFrom is not accepted"),
    (host(VolumeDriver="local"), "HostConfig.VolumeDriver is not accepted"),
    (host(Tmpfs={"/x": ""}), "HostConfig.Tmpfs is not accepted"),
    (host(ReadonlyRootfs=False), "HostConfig.ReadonlyRootfs=False is not true"),
    (host(ReadonlyRootfs=1), "HostConfig.ReadonlyRootfs=1 is not true"),
    (host(Init=False), "HostConfig.Init"),
    (host(Runtime="evil"), "HostConfig.Runtime is not accepted"),
    (host(Sysctls={"net.ipv4.ip_forward": "1"}), "HostConfig.Sysctls is not accepted"),
    (host(PortBindings={"80/tcp": [{"HostPort": "80"}]}), "HostConfig.PortBindings is not accepted"),
    (host(PublishAllPorts=True), "HostConfig.PublishAllPorts is not accepted"),
    (host(ExtraHosts=["mlflow:1.2.3.4"]), "HostConfig.ExtraHosts is not accepted"),
    (host(Links=["mlflow"]), "HostConfig.Links is not accepted"),
    (host(GroupAdd=["0"]), "HostConfig.GroupAdd is not accepted"),
    (host(OomScoreAdj=-1000), "HostConfig.OomScoreAdj is not accepted"),
    (host(OomKillDisable=True), "HostConfig.OomKillDisable is not accepted"),
    (host(RestartPolicy={"Name": "always"}), "HostConfig.RestartPolicy is not accepted"),
    (host(AutoRemove=True), "HostConfig.AutoRemove is not accepted"),
    (host(ContainerIDFile="/x"), "HostConfig.ContainerIDFile is not accepted"),
    (host(StorageOpt={"size": "1"}), "HostConfig.StorageOpt is not accepted"),
    (host(LogConfig={"Type": "syslog", "Config": {"syslog-address": "udp://x"}}), "HostConfig.LogConfig"),
    (host(Neu={"a": 1}), "HostConfig.Neu is not accepted"),
    (host(**{"\u017fecurityOpt": ["seccomp=unconfined"]}), "a name is there twice"),  # Go reads it as an S
    (host(**{"priv\u0131leged": True}), r"HostConfig.priv\u0131leged is not accepted"),
    (host(Memory=0), "HostConfig.Memory=0 is not a limit"),
    (host(Memory=-1), "HostConfig.Memory=-1 is not a limit"),
    (host(Memory=None), "HostConfig.Memory=None is not a limit"),
    (host(Memory=True), "HostConfig.Memory=True is not a limit"),
    (host(Memory=1e9), "HostConfig.Memory=1000000000.0 is not a limit"),
    (host(MemorySwap=-1), "HostConfig.MemorySwap=-1 is not a limit"),
    (host(MemorySwap=8 << 30), "HostConfig.MemorySwap is not HostConfig.Memory"),
    (host(ShmSize="all"), "HostConfig.ShmSize='all' is not a limit"),
    (host(NanoCpus=-5), "HostConfig.NanoCpus=-5 is not a limit"),
    (host(Mounts=None), "HostConfig.Mounts is missing"),
    (host(Mounts=["/:/x"]), "HostConfig.Mounts: one is not an object"),
    (bind("/"), "Source='/' is not a folder of PIPELINE_SOURCE_ROOTS=/data/images,/mnt/photos"),
    *[
        (bind(source), f"Source={source!a} is not a folder of")
        for source in (
            *("/etc", "/data", "/data/images-of-others", "/data/images/../../etc", "/data/images/..", "/mnt/photos/."),
            *("//mnt/photos", "/mnt//photos", "/mnt/photos/", "/mnt/photos\x00", "mnt/photos", "/mnt/photos/a"),
            *("/var/run/docker.sock", "/MNT/photos", "", "/mnt/photos:rw"),
        )
    ],
    (bind("/mnt/photos", "/opt/venv"), "Target='/opt/venv' is not /sources/mnt/photos"),
    (bind("/mnt/photos", "/airflow"), "Target='/airflow' is not"),
    (bind("/mnt/photos", ReadOnly=False), "is not ReadOnly"),
    (bind("/mnt/photos", ReadOnly=None), "is not ReadOnly"),
    (bind("/mnt/photos", ReadOnly=1), "is not ReadOnly"),
    (bind("/mnt/photos", readonly=False), "a name is there twice"),
    (bind("/mnt/photos", BindOptions={"Propagation": "rshared"}), "HostConfig.Mounts.BindOptions"),
    (bind("/data/images"), "two have the same Target"),
    (volume(Source="vision-mlops_postgres"), "a volume must be anonymous"),
    (volume(Target="/opt"), "a volume must be anonymous, writable and at /tmp or /airflow/xcom"),
    (
        volume(VolumeOptions={"DriverConfig": {"Options": {"o": "bind", "device": "/"}}}),
        "VolumeOptions is not accepted",
    ),
    (volume(Type="tmpfs"), "Type='tmpfs' is not volume or bind"),
    (volume(Type="npipe"), "Type='npipe' is not volume or bind"),
    (volume(Type=None), "Type=None is not volume or bind"),
    (top(Image="postgres:17-trixie"), "Image='postgres:17-trixie' is neither vision-mlops/train:dev nor the ID"),
    (top(Image="vision-mlops/train:other"), "is neither vision-mlops/train:dev nor the ID"),
    (top(Image=OTHER_ID), f"Image={OTHER_ID} is not that of vision-mlops/train:dev"),
    (top(Image=None), "Image=None is neither"),
    (top(image="postgres"), "a name is there twice"),
    (top(User="0"), "User is not accepted"),
    (top(user="0"), "user is not accepted"),
    (top(Entrypoint=["sh"]), "Entrypoint is not accepted"),
    (top(WorkingDir="/"), "WorkingDir is not accepted"),
    (top(Hostname="mlflow"), "Hostname is not accepted"),
    (top(Volumes={"/x": {}}), "Volumes is not accepted"),
    (top(ExposedPorts={"80/tcp": {}}), "ExposedPorts is not accepted"),
    (top(Healthcheck={"Test": ["CMD", "x"]}), "Healthcheck is not accepted"),
    (top(StopSignal="SIGCONT"), "StopSignal is not accepted"),
    (top(OnBuild=["x"]), "OnBuild is not accepted"),
    (top(NetworkingConfig={"EndpointsConfig": {"x": {"Aliases": ["mlflow"]}}}), "NetworkingConfig is not accepted"),
    (top(Tty=True), "Tty=True is not false"),
    (top(Cmd=["train"]), "Cmd is not train --request REQUEST"),
    (top(Cmd=["gc", "--request", "{}"]), "Cmd is not train --request REQUEST"),
    (top(Cmd="train --request {}"), "Cmd is not a list of texts"),
    (top(Env={"A": "1"}), "Env is not a list of texts"),
    (top(Env=[1]), "Env is not a list of texts"),
    (top(Labels={}), "Labels must be pipeline.dag_id,"),
    (top(Labels={**LABELS, "com.docker.compose.project": "x"}), "Labels must be"),
    (top(Labels={**LABELS, "pipeline.key": ""}), "Labels: one is empty or not a text"),
    (top(Labels={**LABELS, "pipeline.stage": "shell"}), "Labels.pipeline.stage='shell' is not a stage"),
    (top(Labels={**LABELS, "pipeline.stage": "prepare"}), f"name '{NAME}' does not name the stage prepare"),
    (top(HostConfig=None), "HostConfig is missing"),
    (top(hostconfig={"Privileged": True}), "a name is there twice"),
    (top(HoStConfig={"Privileged": True}, HostConfig={}), "a name is there twice"),
    (without("HostConfig"), "HostConfig is missing"),
    (without("Labels"), "Labels must be"),
    (without("SecurityOpt"), "HostConfig.SecurityOpt=None"),
    (without("MemorySwap"), "HostConfig.MemorySwap=None is not a limit"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_another_configuration_is_refused_by_name(lab: Lab, change: Change, said: str) -> None:
    given = body()
    change(given)
    assert said in lab.refusal(posted(CREATE, given))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b"{}", "Tty=None is not false"),
        (b"[" * 500_000, "not JSON"),
        (b"9" * 10_000, "not JSON"),
        (b'{"Memory": NaN}', "NaN is not a value"),
        (b"\xff{}", "not JSON"),
        (b'{"HostConfig": {"Binds": ["/:/x"], "Binds": []}}', "a name is there twice"),
        (b'{"HostConfig": {"Privileged": false, "privileged": true}}', "a name is there twice"),
        (b'{"HostConfig": {}, "HostConfig": {"Privileged": true}}', "a name is there twice"),
        (b'{"HostConfig": {}, "\\u0048ostConfig": {"Privileged": true}}', "a name is there twice"),
        (b'{"Tty": false}{"HostConfig": {"Privileged": true}}', "not JSON"),
    ],
)
def test_a_body_that_could_be_read_in_two_ways_is_refused(lab: Lab, raw: bytes, said: str) -> None:
    assert said in lab.refusal(posted(CREATE, raw))


def test_the_engine_gets_what_was_checked_and_nothing_else(lab: Lab) -> None:
    given = body()
    given["Domainname"] = given["HostConfig"]["Binds"] = None
    given["HostConfig"]["Privileged"] = False
    line, content = lab.passed(posted(CREATE, given))
    assert line == f"POST {CREATE} HTTP/1.1"
    del given["HostConfig"]["Mounts"][0]["Source"]
    del given["Domainname"], given["HostConfig"]["Binds"], given["HostConfig"]["Privileged"]
    assert json.loads(content) == given


def test_a_refusal_does_not_say_a_secret(lab: Lab) -> None:
    given = body() | {"Env": ["MLFLOW_TRACKING_PASSWORD=v3ry-l0ng", 7]}
    assert "v3ry" not in lab.refusal(posted(CREATE, given))


def test_an_image_may_be_named(lab: Lab) -> None:
    _, content = lab.passed(posted(CREATE, body() | {"Image": "vision-mlops/train:dev"}))
    assert json.loads(content)["Image"] == "vision-mlops/train:dev"


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Allowed:
    monkeypatch.setenv("PIPELINE_SOURCE_ROOTS", "/data, /mnt/a b/")
    monkeypatch.setenv("PIPELINE_IMAGE_DIGESTS", json.dumps({"train": "sha256:" + "d" * 64}))
    return allowed_by(load_settings())


def test_the_settings_say_what_is_allowed(allowed: Allowed) -> None:
    assert allowed.images.keys() == STAGES.keys()
    assert allowed.images["train"] == "vision-mlops/train@sha256:" + "d" * 64
    assert allowed.images["prepare"] == "vision-mlops/prepare:dev"
    assert (allowed.network, allowed.roots) == ("vision-mlops", ("/data", "/mnt/a b"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("resources", [{}, {"cpus": 1.5, "memory": "8g", "shm_size": "1g", "gpus": -1}])
def test_what_the_operator_asks_for_is_passed_on(allowed: Allowed, stage: str, resources: dict[str, Any]) -> None:
    """Through Docker's own client: whatever it adds to a request is part of it."""
    files = {"dataset": "image_folder", "source": "/data/pets", "corrections": "/mnt/a b/fixed.csv"}
    request = request_of(stage, **files if stage == "prepare" else {})
    limits = StageResources.model_validate(resources)
    job = StageJob(stage, request, allowed.images[stage], {"A": "1"}, {"B": "2"}, limits, timedelta(hours=1))
    sent: dict[str, Any] = {}

    def post(url: str, **given: Any) -> Any:
        sent.update(given, url=url)
        return SimpleNamespace(raise_for_status=lambda: None, json=lambda: {"Id": "c"})

    client = docker.APIClient(version="1.41")
    client.post = post
    DockerStageOperator._create(SimpleNamespace(name_prefix="stage"), client, job, IMAGE_ID, "d", allowed.network)
    name = sent["params"]["name"]
    assert match("POST", f"/v1.41/containers/create?name={name}", allowed).call.creates
    given = json.loads(creation.checked(sent["data"].encode(), name, allowed).body)
    binds = [mount["Target"] for mount in given["HostConfig"]["Mounts"] if mount["Type"] == "bind"]
    if stage == "prepare":
        assert binds == ["/sources/data", "/sources/mnt/a b"]
        asked = json.loads(given["Cmd"][2])
        assert (asked["source"], asked["corrections"]) == ("/sources/data/pets", "/sources/mnt/a b/fixed.csv")
    elif stage == "predict":
        assert (binds, json.loads(given["Cmd"][2])["images"]) == (["/sources/data"], "/sources/data/photos")
    else:
        assert binds == []


def test_the_folders_that_a_stage_writes_to_are_the_operators() -> None:
    assert creation.WRITABLE == WRITABLE
