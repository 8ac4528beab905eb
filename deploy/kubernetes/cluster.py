"""kubectl, as the scripts of this folder use it: one namespace, one line of error. Standard library only."""

from __future__ import annotations

import json
import subprocess
from typing import IO, Any

from deploy.backup_stack import last_line

NAMESPACE = "vision-mlops"
UNAVAILABLE, REFUSED = 69, 78  # sysexits.h
# Annotation of a workload that a restore stopped: how many pods it had. In the cluster, because whoever restores may
# die, and the next one goes on.
BEFORE = "vision-mlops/replicas-before-restore"


class ClusterError(Exception):
    """One line that says what is wrong and what to do, and an exit code."""

    def __init__(self, text: str, code: int = UNAVAILABLE) -> None:
        super().__init__(text)
        self.code = code


class Cluster:
    """The cluster of the current kubeconfig context, seen through one namespace."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self.namespace = namespace

    def command(self, *arguments: str) -> list[str]:
        """The kubectl command with these arguments."""
        return ["kubectl", "--namespace", self.namespace, *arguments]

    def run(
        self, *arguments: str, text: str | None = None, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> str:
        """Run kubectl to its end and return what it printed.

        Args:
            arguments: of kubectl.
            text: what it reads, where it is not a file.
            stdin: a file that it reads.
            stdout: a file that it writes to; then nothing is returned.

        Raises:
            ClusterError: it failed, or is not installed; carries the last line it wrote.
        """
        given: dict[str, Any] = {"input": text.encode()} if text is not None else {"stdin": stdin or subprocess.DEVNULL}
        try:
            done = subprocess.run(  # noqa: S603  # kubectl, with arguments of ours
                self.command(*arguments), stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE, **given
            )
        except FileNotFoundError:
            raise ClusterError("kubectl is not installed; install it, version 1.32 or later") from None
        if done.returncode != 0:
            raise ClusterError(last_line(done.stderr) or f"kubectl {' '.join(arguments[:3])} failed")
        return "" if stdout else done.stdout.decode()

    def objects(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        """Objects of these kinds (`deployments,jobs`), those with the labels of a selector."""
        chosen = ["--selector", selector] if selector else []
        return list(json.loads(self.run("get", kinds, *chosen, "--output", "json"))["items"])

    def apply(self, manifests: str) -> None:
        """Make the cluster hold these manifests; what is as it should be stays.

        On the server's side: a Secret does not carry a copy of itself in an annotation.
        """
        self.run(
            "apply", "--server-side", "--force-conflicts", "--field-manager", "vision-mlops", "--filename", "-",
            text=manifests,
        )  # fmt: skip

    def python(self, pod: str, program: str, *, container: str, text: str = "") -> str:
        """Run a Python program in a container of a pod and return what it printed; `text` is what it reads."""
        return self.run("exec", "--stdin", pod, "--container", container, "--", "python", "-c", program, text=text)
