"""Upgrade the stack on Docker from the release that runs to the one in this folder, or go back to where it was.

1. The new images are built under another tag, while everything runs.
2. Airflow, MLflow and the service stop. The databases are saved: nothing is written until step 3.
3. The new release starts. MLflow and Airflow migrate their databases before anything uses them.
4. What the stack holds is compared with what it held before.

When a step fails, the release before is started again, with its images, its files and the databases of step 2. Objects
in the bucket are not saved, because no release rewrites one. What going back needs is in a folder beside `.env` until
the end: when this command was killed, the next call goes back.

Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from deploy import backup, backup_encryption, contents, engine, release, setup_env, up
from deploy.backup_stack import ComposeStack
from deploy.env_file import ROOT, read, read_as_compose
from deploy.errors import CANNOT_CREATE, DeployError
from deploy.release import Release

BUILT = "-next"  # ends the tag of images that are built and not yet in use
RELEASE, DATABASES, CONTENTS = "release.json", "databases.backup", "contents.json"


class Stopped(ComposeStack):
    """A stack of which nothing runs but Postgres."""

    save_target = restore_target = "make upgrade"

    def require_running(self) -> None:
        """Start Postgres, if it does not run."""
        if "postgres" not in self.running():
            up.Project(str(self.folder / engine.STATE), self.env_file).up(["postgres"])

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """See Stack; here nothing has to be stopped."""
        yield


def upgrade(env_file: Path, *, force: bool) -> str:
    """Upgrade the stack and return a summary line.

    Args:
        env_file: `.env` of the stack.
        force: even if DAG runs are in progress, or the stages' images are new ones already.

    Raises:
        DeployError: nothing was changed, or the stack went back to the release before; the text says which.
    """
    kept = env_file.parent / "backups" / "upgrade"
    if kept.exists():
        old = _go_back(env_file, kept)
        raise DeployError(f"an upgrade had not ended; {old} runs as before it. Call make upgrade again to try it again")
    began = time.monotonic()
    with _nothing_changed():
        new = release.commit_here()
        old_release = release.running(read_as_compose(env_file))
        old = old_release.commit[:12]
        _require_a_reason(old_release, new, env_file, force=force)
        print(f"upgrading from {old} to {new[:12]}: building the images", flush=True)
        built = _build(env_file)
        setup_env.write(env_file, ROOT / ".env.example")  # it only adds, which the release before does not mind
        _keep(old_release, kept, env_file)
    try:
        _replace(old_release, kept, env_file, built)
    except BaseException as error:
        why = str(error) or type(error).__name__
        print(f"upgrade: {why}\nupgrade: going back to {old}", file=sys.stderr, flush=True)
        _go_back(env_file, kept)
        code = error.code if isinstance(error, DeployError) else up.FAILED
        raise DeployError(f"{why}\n{old} runs again, with everything that it had", code) from None
    saved = kept.parent / f"{datetime.now(UTC):before-upgrade-%Y%m%dT%H%M%SZ}.backup"
    (kept / DATABASES).replace(saved)
    shutil.rmtree(kept)
    shutil.rmtree(_files(old_release, env_file))
    return f"{new[:12]} runs after {time.monotonic() - began:.0f} s; the databases as {old} left them: {saved}"


@contextmanager
def _nothing_changed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployError(f"{error}; nothing was changed", CANNOT_CREATE) from None
    except DeployError as error:
        raise DeployError(f"{error}; nothing was changed", error.code) from None


def _require_a_reason(old: Release, new: str, env_file: Path, *, force: bool) -> None:
    if old.commit == new:
        raise DeployError(f"{new[:12]} runs already; what changed in .env takes effect with make up")
    if force:
        return
    if rebuilt := sorted(name for name, image in old.images.items() if release.commit_of(image) == new):
        first = old.commit[:12]
        raise DeployError(
            f"{rebuilt[0]} was built from {new[:12]} already, so that the image of {first} could not be brought back; "
            f"build that again (git checkout {first} && make images && git checkout -), or FORCE=1 goes on without"
        )
    if in_progress := contents.runs_in_progress(ComposeStack(env_file)):
        raise DeployError(
            f"DAG runs are in progress ({', '.join(in_progress)}); pause the DAGs and let them finish, or FORCE=1: "
            "Airflow goes on with them afterwards"
        )


def _build(env_file: Path) -> dict[str, str]:
    """Build the images of this folder under a tag of their own; return that name of each, and the one to give it."""
    values = read_as_compose(env_file)
    next_tag = release.tag(values) + BUILT
    ours = {"PIPELINE_IMAGE_PREFIX": release.prefix(values), "PIPELINE_IMAGE_TAG": next_tag}
    done = subprocess.run([sys.executable, "-m", "images", "build"], cwd=ROOT, env=os.environ | ours)
    if done.returncode != 0:
        raise DeployError("the images could not be built, see above")
    built = release.names(values | ours)
    return {built[name]: final for name, final in release.names(values).items()}


def _keep(old: Release, kept: Path, env_file: Path) -> None:
    """Save what going back needs; the folder appears when it is complete."""
    release.unpack(old.commit, _files(old, env_file))
    making = kept.with_name(f".{kept.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700, parents=True)
    contents.of(ComposeStack(env_file), read_as_compose(env_file)).write(making / CONTENTS)
    old.write(making / RELEASE)
    making.rename(kept)


def _replace(old: Release, kept: Path, env_file: Path, built: dict[str, str]) -> None:
    if old.services:
        up.Project(engine.WORK, env_file).stop(old.services)
    up.Project(engine.STATE, env_file).stop(["mlflow"])
    key = backup_encryption.keys(read(env_file))[0]
    print(backup.save(Stopped(env_file), kept / DATABASES, key, objects=False), flush=True)
    for name, final in built.items():
        engine.output(["docker", "tag", name, final])
        engine.output(["docker", "rmi", name])
    # A release may bring new services: where Airflow ran, all are started.
    everything = "airflow-scheduler" in old.services
    up.start(ROOT, env_file, [] if everything else old.services or None)
    _require_contents(kept, env_file)


def _go_back(env_file: Path, kept: Path) -> str:
    """Start the release that ran before, and return its commit."""
    old = Release.read(kept / RELEASE)
    files = _files(old, env_file)
    try:
        up.stop(env_file, volumes=False)
        old.tag_images()
        if (kept / DATABASES).exists():
            keys = backup_encryption.keys(read(env_file))
            print(backup.restore(Stopped(env_file, files), kept / DATABASES, keys, force=True), flush=True)
        up.Project(str(files / engine.STATE), env_file).up(())
        if old.services:
            up.Project(str(files / engine.WORK), env_file).up(old.services)
        _require_contents(kept, env_file)
    except (DeployError, OSError) as error:
        raise DeployError(
            f"going back to {old.commit[:12]}: {error}\n"
            f"correct this and call make upgrade again, which goes on with it; {kept} has all that it needs"
        ) from None
    shutil.rmtree(kept)
    print(f"going back: git checkout {old.commit[:12]} before you call another command of make", flush=True)
    return old.commit[:12]


def _require_contents(kept: Path, env_file: Path) -> None:
    before = contents.Contents.read(kept / CONTENTS)
    if lost := before.lost(ComposeStack(env_file), read_as_compose(env_file)):
        raise DeployError("\n".join(lost))


def _files(old: Release, env_file: Path) -> Path:
    """Where the files of a release are; they stay, because containers read some of them."""
    return env_file.parent / ".local" / "releases" / old.commit[:12]
