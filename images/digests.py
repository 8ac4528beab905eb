"""Prints PIPELINE_IMAGE_DIGESTS for `.env`: the digests of the images in their registry."""

from __future__ import annotations

import json
import subprocess
import sys

from images.declared import images, tagged

MISSING = 78  # exit code when an image has no digest


def print_digests() -> int:
    """Print the line; return an exit code."""
    digests = {}
    for name in images():
        tag = tagged(name)
        command = ["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", tag]
        shown = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        if shown.returncode != 0:
            return shown.returncode
        repository = tag.rpartition(":")[0]
        pushed = [one.rpartition("@")[2] for one in json.loads(shown.stdout) or () if one.startswith(f"{repository}@")]
        if not pushed:
            print(f"{tag} has no digest: push it first (docker push {tag})", file=sys.stderr)
            return MISSING
        digests[name] = pushed[0]
    print(f"PIPELINE_IMAGE_DIGESTS={json.dumps(digests)}")
    return 0
