"""The images of others: their names and digests, listed in `third_party.toml`, and how an engine gets them.

Standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from images.declared import ROOT

LIST = Path("images", "third_party.toml")


class FetchError(Exception):
    """An image is not on this engine, and its registry does not hand it out."""


@dataclass(frozen=True)
class ThirdParty:
    """One image of others."""

    name: str
    """With its tag."""
    variable: str
    """Of `.env`: names another image in its place."""
    digest: str
    """Of the index of all platforms; empty where none is confirmed."""

    @property
    def pinned(self) -> str:
        """The name with the digest, if there is one."""
        return f"{self.name}@{self.digest}" if self.digest else self.name


def third_party(root: Path = ROOT) -> dict[str, ThirdParty]:
    """Every image of the list, by name."""
    listed = tomllib.loads((root / LIST).read_text(encoding="utf-8"))["image"]
    return {image["name"]: ThirdParty(**image) for image in listed}


def default(variable: str) -> ThirdParty:
    """The image that a variable of `.env` replaces."""
    [found] = [image for image in third_party().values() if image.variable == variable]
    return found


def fetch(image: ThirdParty) -> str:
    """Have an image on this engine, by its digest, and under its tag, by which Compose names it.

    An image that was built or loaded on this machine, such as a mirror's or a stand-in, has no digest of a registry and
    stays. Where the registry cannot be reached, one that is here is used, with a warning.

    Returns:
        The reference to use: with the digest, unless the image here has another.

    Raises:
        FetchError: the image is not here, and cannot be pulled.
    """
    here = _digests(image.name)
    if not image.digest or here == []:
        return image.name
    if here and image.digest in here:
        return image.pinned
    print(f"fetching {image.name}", flush=True)
    failed = _docker("pull", "--quiet", image.pinned) or _docker("tag", image.pinned, image.name)
    if not failed:
        return image.pinned
    if here is None:
        raise FetchError(f"{image.pinned}: {failed}")
    print(f"{image.name} is here with another digest, and {image.digest} cannot be had: {failed}", file=sys.stderr)
    return image.name


def fetch_all(names: Iterable[str]) -> None:
    """Have those of these images that are in the list on this engine; names of other images are passed over.

    Raises:
        FetchError: as `fetch`.
    """
    listed = third_party()
    for name in sorted({*names} & listed.keys()):
        fetch(listed[name])


def _digests(name: str) -> list[str] | None:
    """Digests that registries gave the image of this name on this engine; None when it is not here."""
    command = ["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", name]
    shown = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    return [one.rpartition("@")[2] for one in json.loads(shown.stdout) or ()] if shown.returncode == 0 else None


def _docker(*arguments: str) -> str:
    """Run docker; return the last line of its complaint, or nothing if it succeeded."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)  # noqa: S603, S607
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["docker failed"])[-1]
