"""Find what keeps the stack from starting or working on this machine; each finding is one line with its fix.

What the stack needs is read from the compose files and `.env.example`, so a port, a secret or an image that is added
there is checked here. Standard library only, as this runs before anything is installed; only the check of the S3 store
needs boto3.
"""

from __future__ import annotations

import base64
import http.client
import re
import shutil
import socket
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from deploy import bucket_check, engine
from deploy.env_file import PLACEHOLDER, chosen_profiles, parse, read_as_compose
from deploy.stack_files import images, profiles, published, required, run_once

GIB = 2**30
DISK = (10 * GIB, 30 * GIB)  # fails, warns below. All images take about 10 GiB, the build cache as much again
MEMORY = (3 * GIB, 6 * GIB)  # the stack takes 2 GiB when idle; a stage and a loaded model need more
MEMORY_BESIDE = (GIB, 4 * GIB)  # what a training needs beside a running stack
CLOCK = (60.0, 900.0)  # seconds off: warns, fails above. S3 refuses signatures that are 15 minutes off
TIMEOUT = 20.0  # seconds; a server that is down refuses at once, but a host that is busy starting a stack answers late


@dataclass(frozen=True)
class Finding:
    """One line of the report: `ok`, `warn` or `fail`."""

    level: str
    subject: str
    text: str


def check_engine(version: Callable[[Sequence[str]], str]) -> list[Finding]:
    """Check that Docker answers, and that Compose is version 2 or later.

    Args:
        version: runs a command and returns what it printed; raises OSError with the reason when it cannot.
    """
    try:
        server = version(["docker", "version", "--format", "{{.Server.Version}}"])
    except OSError as error:
        return [Finding("fail", "docker", f"{error}; install Docker Engine, start it, and join the group docker")]
    try:
        compose = version(["docker", "compose", "version", "--short"]).removeprefix("v")
    except OSError as error:
        return [Finding("fail", "compose", f"{error}; install the Docker plugin Compose, version 2 or later")]
    if not compose[:1].isdigit() or int(compose.split(".")[0]) < 2:
        return [Finding("fail", "compose", f"version {compose} is too old; install version 2 or later")]
    return [Finding("ok", "docker", f"Engine {server}, Compose {compose}")]


def check_env(folder: Path) -> list[Finding]:
    """Check that `.env` exists, is private and complete, and holds no variable that nothing reads."""
    path = folder / ".env"
    if not path.exists():
        return [Finding("fail", ".env", f"{path} is missing; run make setup")]
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return [Finding("fail", ".env", f"{error}; correct the line")]
    findings = []
    mode = path.stat().st_mode & 0o777
    if mode != 0o600:
        findings.append(Finding("fail", ".env", f"mode {mode:o} lets others read the secrets; run chmod 600 {path}"))
    for name in sorted(required(folder)):
        value = values.get(name, "")
        if not value:
            findings.append(Finding("fail", ".env", f"{name} is empty; run make setup"))
        elif PLACEHOLDER.fullmatch(value):
            findings.append(Finding("fail", ".env", f"{name} is a placeholder; empty it and run make setup"))
    known = parse((folder / ".env.example").read_text(encoding="utf-8"))
    for name in sorted(values.keys() - known.keys()):
        findings.append(Finding("warn", ".env", f"nothing reads {name}; see .env.example for the right name"))
    return findings or [Finding("ok", ".env", "private and complete")]


def check_profiles(chosen: set[str], known: Mapping[str, str], running: set[str]) -> list[Finding]:
    """Check that COMPOSE_PROFILES holds known names, and that what runs is what it says.

    Args:
        chosen: names in COMPOSE_PROFILES.
        known: profile of each service that has one.
        running: services of docker-compose-mlops.yml that run; none when it is not up.
    """
    names, every = sorted(set(known.values())), "*" in chosen
    findings = [
        Finding("fail", "profile", f"{name} in COMPOSE_PROFILES is unknown; choose from {', '.join(names)}")
        for name in sorted(chosen - {*names, "*"})
    ]
    for service, profile in sorted(known.items()) if running else ():
        wanted = every or profile in chosen
        if wanted and service not in running:
            text = f"{service} does not run, and {profile} is in COMPOSE_PROFILES; run make up"
            findings.append(Finding("fail", "profile", text))
        elif not wanted and service in running:
            text = f"{service} runs, and {profile} is not in COMPOSE_PROFILES; run make down, then make up"
            findings.append(Finding("fail", "profile", text))
    return findings or [Finding("ok", "profile", ", ".join(sorted(chosen)) or "none")]


def check_ports(ports: Mapping[str, int], ours: Container[int]) -> list[Finding]:
    """Check that each port is free, or used by the stack itself."""
    findings = []
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed counts as free
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if port not in ours:
                    text = f"{port} ({name}) is taken by another program; stop it, or set {name} in .env to a free one"
                    findings.append(Finding("fail", "port", text))
    return findings or [Finding("ok", "port", f"{', '.join(map(str, ports.values()))} free or used by the stack")]


def check_room(subject: str, free: int, limits: tuple[int, int], fix: str) -> Finding:
    """Judge free disk space or memory, in bytes, by the two limits below which it fails and warns."""
    fails, warns = limits
    level = "fail" if free < fails else "warn" if free < warns else "ok"
    text = f"{free / GIB:.0f} GiB free"
    return Finding(level, subject, text if level == "ok" else f"{text}, {warns // GIB} GiB are recommended; {fix}")


def check_images(wanted: Sequence[str], present: set[str]) -> list[Finding]:
    """Check that every image has a fixed tag, and is on this machine."""
    findings = []
    for image in wanted:
        if not re.search(r":(?!latest$)[\w.-]+$", image):
            findings.append(Finding("fail", "image", f"{image} has no fixed tag; correct its variable in .env"))
        elif re.sub(r":[\w.-]+@", "@", image) not in present:  # with a digest, the engine leaves out the tag
            findings.append(Finding("warn", "image", f"{image} is not here yet; make images or make up gets it"))
    return findings or [Finding("ok", "image", f"all {len(wanted)} are here")]


def check_clock(seconds: float) -> Finding:
    """Judge the difference in seconds between this machine's clock and a server's."""
    warns, fails = CLOCK
    level = "fail" if abs(seconds) > fails else "warn" if abs(seconds) > warns else "ok"
    text = f"{abs(seconds):.0f} s off the S3 store's"
    return Finding(level, "clock", text if level == "ok" else f"{text}; synchronise it (timedatectl set-ntp true)")


def check_s3(url: str, values: Mapping[str, str]) -> list[Finding]:
    """Check that the S3 store at `url` accepts the keys of `.env` for the bucket, and that the clocks agree."""
    if not bucket_check.available():
        return [Finding("warn", "s3", "not checked, boto3 is missing; run make install, then make doctor again")]
    bucket = values.get("S3_BUCKET") or "mlflow"
    keys = values.get("S3_ACCESS_KEY", ""), values.get("S3_SECRET_KEY", "")
    if not all(keys):
        return [Finding("fail", "s3", "S3_ACCESS_KEY or S3_SECRET_KEY is empty; run make setup")]
    try:
        status, date = bucket_check.head_bucket(url, bucket, keys, values.get("S3_REGION") or "us-east-1")
    except ValueError as error:
        return [Finding("fail", "s3", f"S3_ENDPOINT_URL: {error}; give http://HOST:PORT")]
    except OSError as error:
        if values.get("S3_ENDPOINT_URL"):
            text = f"no answer at {url} from this machine ({error}); correct S3_ENDPOINT_URL, unless containers know it"
            return [Finding("warn", "s3", text)]
        return [Finding("fail", "s3", f"no answer at {url} ({error}); see docker compose logs s3")]
    clock = [check_clock(time.time() - parsedate_to_datetime(date).timestamp())] if date else []
    found = {
        200: ("ok", f"{url} accepts the keys for bucket {bucket!r}"),
        301: ("fail", f"bucket {bucket!r} at {url} is in another region; set S3_REGION to that region"),
        404: ("warn", f"{url} has no bucket {bucket!r} yet; make up creates it"),
    }
    refused = (
        f"{url} refuses S3_ACCESS_KEY and S3_SECRET_KEY of .env for bucket {bucket!r}; the stack's own store keeps "
        "the keys of its first start: docs/how-to/containers.md"
    )
    found |= dict.fromkeys((400, 401, 403), ("fail", refused))
    level, text = found.get(status, ("fail", f"{url} answers {status}; see its log (make logs S=s3)"))
    return [Finding(level, "s3", text), *clock]


def check_mlflow(port: int, login: tuple[str, str], hosts: Sequence[str]) -> list[Finding]:
    """Check that MLflow answers, accepts the login of `.env`, and allows every Host header that clients send."""
    findings = []
    basic = base64.b64encode(":".join(login).encode()).decode()
    for host in hosts:
        headers = {"Host": host, "Authorization": f"Basic {basic}"}
        try:
            # limit: only the status counts
            status, _ = get(port, "/api/2.0/mlflow/experiments/search?max_results=1", headers)
        except (OSError, http.client.HTTPException) as error:
            return [Finding("fail", "mlflow", f"no answer on port {port} ({error}); see docker compose logs mlflow")]
        if status == 401:
            text = "refuses MLFLOW_TRACKING_PASSWORD of .env; run make up, with which MLflow takes it over"
            return [Finding("fail", "mlflow", text)]
        if status == 403:
            text = f"refuses the Host header {host}; add it to MLFLOW_MORE_HOSTS in .env, then make up"
            findings.append(Finding("fail", "mlflow", text))
        elif status != 200:
            findings.append(Finding("fail", "mlflow", f"answers {status} to {host}; see docker compose logs mlflow"))
    return findings or [Finding("ok", "mlflow", f"answers on port {port}, accepts login and Host {', '.join(hosts)}")]


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str | None]:
    """Ask a server on this machine; return the HTTP status and the Date header."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.getheader("Date")
    finally:
        connection.close()


def examine(folder: Path) -> list[Finding]:
    """Run every check; those that need Docker, `.env` or a running stack only where there is one."""
    docker, env = check_engine(engine.output), check_env(folder)
    findings = [*docker, *env]
    path = folder / ".env"
    up: set[int] = set()
    if path.exists() and not any("is not NAME=value" in finding.text for finding in env):
        values = read_as_compose(path)
        if docker[0].level == "ok":
            up = engine.ports_of_the_stack(values)
            findings += check_images(images(folder, values), engine.images_here())
            staying = {name: of for name, of in profiles(folder).items() if name not in run_once(folder)}
            findings += check_profiles(chosen_profiles(values), staying, engine.services_running(values))
        ports = published(folder, values)
        findings += check_ports(ports, up)
        outside = values.get("S3_ENDPOINT_URL")
        if outside or ports["S3_PORT"] in up:
            findings += check_s3(outside or f"http://127.0.0.1:{ports['S3_PORT']}", values)
        if ports["MLFLOW_PORT"] in up:
            port = ports["MLFLOW_PORT"]
            login = values.get("MLFLOW_TRACKING_USERNAME", ""), values.get("MLFLOW_TRACKING_PASSWORD", "")
            more = [host for host in values.get("MLFLOW_MORE_HOSTS", "").split(",") if host]
            names = ["127.0.0.1", f"127.0.0.1:{port}", "localhost", f"localhost:{port}", "mlflow", "mlflow:5000"]
            findings += check_mlflow(port, login, [*names, *more])
    disk = shutil.disk_usage("/var/lib/docker" if Path("/var/lib/docker").exists() else folder).free
    findings.append(check_room("disk", disk, DISK, "docker image prune removes old builds"))
    if Path("/proc/meminfo").exists():
        kib = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        if kib:
            memory = int(kib[1]) * 1024
            findings.append(
                check_room(
                    "memory", memory, MEMORY_BESIDE if up else MEMORY, "end other programs, or lower PIPELINE_RESOURCES"
                )
            )
    return findings


def report(folder: Path) -> int:
    """Print the findings; return 1 when something fails, else 0."""
    findings = examine(folder)
    for finding in findings:
        print(f"{finding.level:<5} {finding.subject:<8} {finding.text}")
    return int(any(finding.level == "fail" for finding in findings))
