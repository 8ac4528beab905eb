"""The sources of a commit, or of the working tree, in a folder of their own, and the commands that run there.

Both sides run with this interpreter and its packages: what is compared is the code. Every command runs as the Makefile
runs it, after `deploy/env.sh RUNTIME` has set the environment.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What starts a command in each release: the first spelling whose file is in the checkout, newest release first.
SPELLINGS: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "run": (
        ("plugins/pipeline/__main__.py", ("pipeline", "run")),
        ("plugins/pipeline/run.py", ("pipeline.run",)),
    ),
    "stage": (("tasks/__main__.py", ("tasks",)),),
    "history": (("tasks/__main__.py", ("tasks", "history")),),
    "rollback": (("tasks/__main__.py", ("tasks", "rollback-champion")),),
    "export": (("tasks/cli/export_onnx.py", ("tasks", "export-onnx")),),
}
# Variables of the caller's own pipeline and make, which must not reach the commands of either side.
OURS = re.compile(r"(AIRFLOW_|PIPELINE_|MLFLOW_|SERVING_|AWS_|MAKE|MFLAGS$|PYTHONPATH$)")
LAST_LINES = 30


class CommandError(Exception):
    """A command of one side failed; the message holds the end of its output."""


@dataclass(frozen=True)
class Checkout:
    """One release's sources."""

    root: Path
    name: str
    """Its commit; ends in `-dirty` where files differ from it."""

    @property
    def title(self) -> str:
        """The commit, short, for people."""
        commit, _, dirty = self.name.partition("-")
        return commit[:7] + (" with uncommitted changes" if dirty else "")

    def run(self, what: str, *arguments: str, runtime: str, variables: Mapping[str, str]) -> str:
        """Run one of `SPELLINGS` under a runtime and return its standard output.

        Raises:
            CommandError: it failed, or this release has no such command.
        """
        known = SPELLINGS[what]
        module = next((words for file, words in known if (self.root / file).is_file()), None)
        if module is None:
            raise CommandError(f"{self.name} has none of {[' '.join(words) for _, words in known]}; add its spelling")
        return self.shell(shlex.join(["python", "-m", *module, *arguments]), runtime=runtime, variables=variables)

    def shell(self, line: str, *, runtime: str, variables: Mapping[str, str]) -> str:
        """Run a shell line after `deploy/env.sh RUNTIME` and return its standard output.

        Raises:
            CommandError: it failed.
        """
        return self._run(["bash", "-euo", "pipefail", "-c", f". deploy/env.sh {runtime} && {line}"], variables)

    def make(self, *targets: str, variables: Mapping[str, str]) -> str:
        """Run targets of this release's Makefile, in its folder: only those that install nothing.

        Raises:
            CommandError: make failed.
        """
        return self._run(["make", *targets, f"PYTHON={sys.executable}"], variables)

    def _run(self, command: list[str], variables: Mapping[str, str]) -> str:
        environment = bare_environment() | {"PIPELINE_GIT_COMMIT": self.name.removesuffix("-dirty")} | dict(variables)
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            end = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
            raise CommandError(f"{self.name}: {command[-1]!r} ended with exit code {done.returncode}:\n{end}")
        return done.stdout


def of_commit(revision: str, folder: Path) -> Checkout:
    """Unpack the files of a commit into a new folder.

    Raises:
        CommandError: git does not know the commit.
    """
    commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
    return _unpacked(_git("archive", "--format=tar", commit), folder, commit)


def of_working_tree(folder: Path) -> Checkout:
    """Copy the files of the working tree that git does not ignore into a new folder."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    names = "\0".join(sorted({name for name in listed if name and (ROOT / name).exists()}))
    command = ["tar", "--create", "--null", "--no-recursion", "--files-from=-"]
    done = subprocess.run(command, cwd=ROOT, input=names.encode(), stdout=subprocess.PIPE, check=True)
    dirty = "-dirty" if _git("status", "--porcelain").strip() else ""
    return _unpacked(done.stdout, folder, _git("rev-parse", "HEAD").decode().strip() + dirty)


def bare_environment() -> dict[str, str]:
    """The caller's environment without what configures a pipeline or a stack, and with this interpreter first."""
    configured = set(re.findall(r"^([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    kept = {name: value for name, value in os.environ.items() if not OURS.match(name) and name not in configured}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _unpacked(archive: bytes, folder: Path, name: str) -> Checkout:
    folder.mkdir(parents=True)
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive, check=True)
    return Checkout(folder, name)


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    if done.returncode != 0:
        raise CommandError(f"git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout
