"""Builds images, one at a time: they share layers, so that all but the first take seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from images.declared import ROOT, images, setting, tagged
from images.third_party import FetchError, default, fetch

UNKNOWN = 64  # exit code for a name that no image has
UNAVAILABLE = 69  # exit code when the base image cannot be had
STALE = 78  # exit code when the images that are given are not those of this commit
GIVEN = "PIPELINE_IMAGES_GIVEN"  # 1: the images were built elsewhere, and tests must run with these very ones


def build(names: Sequence[str]) -> int:
    """Build the named images, or all, and print the size and build time of each; return an exit code."""
    known = images()
    if unknown := [name for name in names if name not in known]:
        print(f"image {unknown[0]!r} is unknown; choose from: {' '.join(known)}", file=sys.stderr)
        return UNKNOWN
    try:
        base = setting("PYTHON_IMAGE") or fetch(default("PYTHON_IMAGE"))
    except FetchError as error:
        print(f"{error}; PYTHON_IMAGE names another base image", file=sys.stderr)
        return UNAVAILABLE
    if os.environ.get(GIVEN) == "1":  # after the base, with which tests compare sizes
        return check_given(names or list(known))
    arguments = [f"--build-arg=GIT_COMMIT={_commit()}", f"--build-arg=PYTHON_IMAGE={base}"]
    for name in names or known:
        started, tag = time.monotonic(), tagged(name)
        command = ["docker", "build", "--quiet", *known[name].build_arguments, *arguments, "--tag", tag, "."]
        done = subprocess.run(  # noqa: S603
            command, cwd=ROOT, env=os.environ | {"DOCKER_BUILDKIT": "1"}, stdout=subprocess.DEVNULL
        )
        if done.returncode != 0:
            return done.returncode
        size = subprocess.check_output(["docker", "image", "inspect", "--format", "{{.Size}}", tag])  # noqa: S603, S607
        seconds = time.monotonic() - started
        print(f"{name:9} {int(size) // 1_000_000:5d} MB {seconds:4.0f} s  {tag}", flush=True)
    return 0


def check_given(names: Sequence[str]) -> int:
    """Build nothing: check that the named images are on this engine and of this commit; return an exit code."""
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    for name in names:
        command = ["docker", "image", "inspect", "--format", label, tagged(name)]
        found = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
        if found.returncode != 0 or found.stdout.strip() != _commit():
            there = f"is of commit {found.stdout.strip()}" if found.returncode == 0 else "is not on this engine"
            print(f"{GIVEN}=1, but {tagged(name)} {there}; it must be of {_commit()}", file=sys.stderr)
            return STALE
    return 0


def _commit() -> str:
    """The git commit whose code goes into the images."""
    if commit := os.environ.get("PIPELINE_GIT_COMMIT"):
        return commit
    asked = subprocess.run(  # noqa: S603
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"
