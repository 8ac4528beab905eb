"""kubectl, as the modules of this folder use it: one namespace, errors in one line. Standard library only."""

from __future__ import annotations

import json
import subprocess
from typing import IO, Any

from deploy.backup_stack import last_line
from deploy.errors import DeployError

NAMESPACE = "vision-mlops"  # of the platform: MLflow, the service, their state, Airflow
# Annotation of a workload that a restore stopped: how many pods it had. Kept in the cluster, so that another restore
# can resume after one that was killed.
BEFORE = "vision-mlops/replicas-before-restore"


def stages_of(namespace: str) -> str:
    """Return the namespace of the stages of a platform."""
    return f"{namespace}-stages"


class ClusterError(DeployError):
    """What is wrong with the cluster or what was given for it."""


class Cluster:
    """The cluster of the current kubeconfig context, seen through one namespace."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self.namespace = namespace

    def stages(self) -> Cluster:
        """Return the same cluster, seen through the namespace of this one's stages."""
        return Cluster(stages_of(self.namespace))

    def command(self, *arguments: str) -> list[str]:
        """Return the kubectl command with these arguments."""
        return ["kubectl", "--namespace", self.namespace, *arguments]

    def run(
        self, *arguments: str, text: str | None = None, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """Run kubectl in the namespace and return what it printed.

        Args:
            arguments: of kubectl.
            text: its input, where that is not a file.
            stdin: a file with its input.
            stdout: a file for its output; then an empty text is returned.

        Raises:
            ClusterError: it failed, or is not installed; the text is the last line it wrote.
        """
        return _run(self.command(*arguments), text=text, stdin=stdin, stdout=stdout)

    def objects(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of these kinds (`deployments,jobs`) that match a label selector."""
        chosen = ["--selector", selector] if selector else []
        return list(json.loads(self.run("get", kinds, *chosen, "--output", "json"))["items"])

    def apply(self, manifests: str) -> None:
        """Apply manifests, each in the namespace that it names; server-side, so no annotation holds a Secret's copy."""
        options = ("--server-side", "--force-conflicts", "--field-manager", "vision-mlops", "--filename", "-")
        _run(["kubectl", "apply", *options], text=manifests)

    def python(self, pod: str, program: str, *, container: str, text: str = "") -> str:
        """Run a Python program in a container of a pod and return what it printed; `text` is its input."""
        return self.run("exec", "--stdin", pod, "--container", container, "--", "python", "-c", program, text=text)


def _run(
    command: list[str], *, text: str | None = None, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
) -> str:
    given: dict[str, Any] = {"input": text.encode()} if text is not None else {"stdin": stdin or subprocess.DEVNULL}
    try:
        done = subprocess.run(  # noqa: S603  # kubectl, with arguments of ours
            command, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE, **given
        )
    except FileNotFoundError:
        raise ClusterError("kubectl is not installed; install it, version 1.32 or later") from None
    if done.returncode != 0:
        raise ClusterError(last_line(done.stderr) or f"{' '.join(command[:6])} failed")
    return "" if stdout else done.stdout.decode()
