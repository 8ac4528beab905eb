"""The overlay `local` in a namespace of its own on the cluster that TEST_KUBECONFIG names, and how tests reach it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from deploy.env_file import parse
from deploy.kubernetes.cluster import stages_of
from deploy.setup_env import complete
from tests.stack.conftest import FIRST_PORT, TAG, _bare_environment, build_images
from tests.tasks.serving.samples import picture

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
IMAGES = ("mlflow", "serving", "train")
STAND_INS = ("vm-test/postgres:rootless", "vm-test/s3:rootless")
PORTS = {"MLFLOW_PORT": str(FIRST_PORT + 20), "SERVING_PORT": str(FIRST_PORT + 21)}


def minor_version() -> int:
    """Of the cluster: 20 of 1.20."""
    command = ["kubectl", "--kubeconfig", os.environ["TEST_KUBECONFIG"], "version", "--output", "json"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return int(said["serverVersion"]["minor"].rstrip("+"))


def load_image(name: str) -> None:
    """Bring an image of this machine's engine to the cluster's nodes, where they have another."""
    if command := os.environ.get("TEST_LOAD_IMAGE"):
        subprocess.run(["bash", "-c", command], env={**os.environ, "IMAGE": name}, check=True)


@dataclass(frozen=True)
class State:
    """What `make kubernetes-up` put into a namespace."""

    name: str
    env_file: Path
    variables: dict[str, str]

    def environment(self) -> dict[str, str]:
        """Of a person at this machine: the cluster, MLflow's login, no `.env` of theirs."""
        login = {name: self.variables[name] for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
        own = {"KUBECONFIG": os.environ["TEST_KUBECONFIG"], "PYTHONPATH": str(ROOT)}
        return _bare_environment() | own | login | PORTS

    @property
    def stages(self) -> str:
        """The namespace of the stages."""
        return stages_of(self.name)

    def kubectl(self, *arguments: str, text: str | None = None, namespace: str = "") -> str:
        """Run kubectl in the namespace, or in another one, and return what it printed."""
        command = ["kubectl", "--namespace", namespace or self.name, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=self.environment(), timeout=3000)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def objects(self, kinds: str, *more: str, namespace: str = "") -> list[dict[str, Any]]:
        return list(json.loads(self.kubectl("get", kinds, *more, "--output", "json", namespace=namespace))["items"])

    def deploy(self, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of `python3 -m deploy` on the namespace."""
        command = [sys.executable, "-m", "deploy", name, *map(str, arguments)]
        given = ["--namespace", self.name]
        at = command.index("--") if "--" in command else len(command)
        return subprocess.run(
            [*command[:at], *given, *command[at:]],
            capture_output=True, text=True, cwd=ROOT, env=self.environment(), timeout=3000,
        )  # fmt: skip

    @property
    def overlay(self) -> Path:
        """The overlay `local`, as this cluster can run it."""
        return HERE / ("current-cluster" if minor_version() >= 23 else "old-cluster")

    def up(self, env_file: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.deploy("kubernetes-up", "--overlay", self.overlay, "--env-file", env_file or self.env_file)

    def verify(self, env_file: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.deploy("kubernetes-verify", "--env-file", env_file or self.env_file)

    def backup(self, file: Path) -> subprocess.CompletedProcess[str]:
        """Save the namespace's state to a file."""
        return self.deploy("kubernetes-backup", "--env-file", self.env_file, "--file", file)

    def restore(self, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Restore it."""
        return self.deploy("kubernetes-restore", "--env-file", self.env_file, "--file", file, *options)

    def forwarded(self, *command: str) -> str:
        """Run a command with MLflow and the service at this machine's ports; its output."""
        done = self.deploy("forward", "--", *command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def remove(self, *, wait: bool = True) -> None:
        """Remove the namespaces, and with them everything."""
        command = ["kubectl", "delete", "namespace", self.name, self.stages, "--ignore-not-found"]
        command += [f"--wait={str(wait).lower()}"]
        subprocess.run(command, env=self.environment(), check=True, capture_output=True, text=True)

    @property
    def service(self) -> str:
        """Address of the service; this machine is a node, so it reaches the cluster's addresses."""
        return f"http://{self.kubectl('get', 'service', 'serving', '--output', 'jsonpath={.spec.clusterIP}')}:3000"


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[State]:
    """The overlay in an empty namespace with fresh secrets, up; nothing is left of it afterwards."""
    build_images(*IMAGES)
    subprocess.run([str(HERE / "stand_ins.sh")], check=True, capture_output=True)
    for image in (*(f"vision-mlops/{name}:{TAG}" for name in IMAGES), *STAND_INS):
        load_image(image)
    prefix = "vision-mlops"
    own = {"PIPELINE_IMAGE_PREFIX": prefix, "PIPELINE_IMAGE_TAG": TAG}
    variables = parse(complete("", (ROOT / ".env.example").read_text())[0]) | own
    env_file = folder / ".env"
    env_file.write_text("".join(f"{key}={value}\n" for key, value in variables.items()))
    found = State(name, env_file, variables)
    found.remove()
    try:
        done = found.up()
        assert done.returncode == 0, done.stdout + done.stderr
        yield found
    finally:
        found.remove(wait=False)


@dataclass
class Load:
    """Clients that ask the service without a pause, and what they were answered."""

    url: str
    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    @contextlib.contextmanager
    def applied(self, *, anew: int, kept: int) -> Iterator[None]:
        """Some clients with a connection per request, some that keep theirs; ended at the end of the block."""
        end, image = threading.Event(), picture(128)

        def ask(keep: bool) -> None:
            session = requests.Session()
            session.trust_env = False
            while not end.is_set():
                began = time.monotonic()
                try:
                    headers = {} if keep else {"Connection": "close"}
                    files = {"image": ("i.png", image, "image/png")}
                    answer = session.post(f"{self.url}/predict_image", files=files, headers=headers, timeout=120)
                    said = str(answer.status_code)
                except requests.RequestException as error:
                    said = f"{type(error).__name__}, {'kept' if keep else 'new'} connection: {error}"
                self.answers[said] += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                end.wait(0.1)  # more would take the cores from the pods that are to become ready

        threads = [threading.Thread(target=ask, args=(number < kept,)) for number in range(anew + kept)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            end.set()
            for thread in threads:
                thread.join()
