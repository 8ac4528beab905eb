"""What is asked of registries: the digests of others' images; our images by digest, and the tag of a release.

`docker buildx` asks them, with the login of `docker login`. Standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys

from images.declared import ROOT, images, setting, tagged
from images.third_party import LIST, third_party

FAILED = 1
CONFIG = 78  # exit code when PIPELINE_IMAGE_DIGESTS does not name every image


def digest_of(reference: str) -> str:
    """Digest that a registry has for NAME:TAG, of the index of all platforms where there is one.

    Raises:
        OSError: the registry does not answer or does not know the name; the text is the last line it wrote.
    """
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{json .Manifest}}", reference]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        raise OSError(f"{reference}: {(done.stderr.strip().splitlines() or ['docker buildx failed'])[-1]}")
    return str(json.loads(done.stdout)["digest"])


def compare(*, update: bool) -> int:
    """Compare the list of others' images with the registries and say what differs; return an exit code.

    Args:
        update: write the registries' digests into the list.
    """
    text, code = (ROOT / LIST).read_text(encoding="utf-8"), 0
    for image in third_party(ROOT).values():
        try:
            digest = digest_of(image.name)
        except OSError as error:
            print(error, file=sys.stderr)
            code = FAILED
            continue
        if digest == image.digest:
            continue
        was = f"the list has {image.digest}" if image.digest else "the list has no digest"
        print(f"{image.name} is {digest} in its registry; {was}")
        if update:
            before, name, after = text.partition(f'name = "{image.name}"\n')
            text = before + name + after.replace(f'digest = "{image.digest}"', f'digest = "{digest}"', 1)
        else:
            code = FAILED
    if update:
        (ROOT / LIST).write_text(text, encoding="utf-8")
    elif code:
        print("run python3 -m images third-party --update, test, and commit", file=sys.stderr)
    return code


def pull(source: str) -> int:
    """Pull every image by the digest that PIPELINE_IMAGE_DIGESTS gives, and tag it as `make images` would; exit code.

    Args:
        source: prefix of the images in their registry; empty means PIPELINE_IMAGE_PREFIX.
    """
    if (digests := _all_digests()) is None:
        return CONFIG
    for name, digest in digests.items():
        reference = f"{source}/{name}@{digest}" if source else f"{tagged(name).rpartition(':')[0]}@{digest}"
        for command in (["docker", "pull", "--quiet", reference], ["docker", "tag", reference, tagged(name)]):
            if code := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:  # noqa: S603
                return code
        print(f"{tagged(name)} is {reference}", flush=True)
    return 0


def promote() -> int:
    """Give the images of PIPELINE_IMAGE_DIGESTS, in their registry, the tag PIPELINE_IMAGE_TAG; return an exit code.

    Nothing is built, pulled or pushed: afterwards the tag must have the very digest, or this fails.
    """
    if (digests := _all_digests()) is None:
        return CONFIG
    for name, digest in digests.items():
        tag = tagged(name)
        # Without the option, an image for one platform would get an index around it, and with that another digest.
        command = ["docker", "buildx", "imagetools", "create", "--prefer-index=false", "--tag", tag]
        source = f"{tag.rpartition(':')[0]}@{digest}"
        if code := subprocess.run([*command, source], stdout=subprocess.DEVNULL).returncode:  # noqa: S603
            return code
        if (found := digest_of(tag)) != digest:
            print(f"{tag} is {found} in its registry and not {digest}", file=sys.stderr)
            return FAILED
        print(f"{tag} is {source}", flush=True)
    return 0


def _all_digests() -> dict[str, str] | None:
    """PIPELINE_IMAGE_DIGESTS, if it names every image; otherwise say what is wrong and return None."""
    text = setting("PIPELINE_IMAGE_DIGESTS", "{}")
    try:
        digests = dict(json.loads(text))
    except (ValueError, TypeError):
        print(
            f"PIPELINE_IMAGE_DIGESTS={text!r} is not a JSON object; python3 -m images digests prints it",
            file=sys.stderr,
        )
        return None
    if missing := images().keys() - digests.keys():
        print(f"PIPELINE_IMAGE_DIGESTS has no digest of {', '.join(sorted(missing))}", file=sys.stderr)
        return None
    return {name: str(digests[name]) for name in images()}
