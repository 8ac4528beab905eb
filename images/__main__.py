"""Builds the images and reports on them: `python3 -m images COMMAND`. Standard library only.

They are named PIPELINE_IMAGE_PREFIX/NAME:PIPELINE_IMAGE_TAG, by default vision-mlops/NAME:dev.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from images import registry, sbom
from images.build import build
from images.declared import images
from images.digests import print_digests
from images.table import print_table
from images.third_party import third_party


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    match options.command:
        case "build":
            return build(options.names)
        case "digests":
            return print_digests()
        case "pull":
            return registry.pull(options.source)
        case "promote":
            return registry.promote()
        case "sbom":
            return sbom.write(options.names, options.out)
        case "third-party" if options.check or options.update:
            return registry.compare(update=options.update)
        case "third-party":
            print("\n".join(image.pinned for image in third_party().values()))
        case "table":
            print_table()
        case _:
            print("\n".join(images()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m images", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    builds = commands.add_parser("build", help="build the named images, or all of them")
    builds.add_argument("names", nargs="*", metavar="NAME", help=", ".join(images()))
    commands.add_parser("digests", help="print PIPELINE_IMAGE_DIGESTS for .env, once the images are pushed")
    pulls = commands.add_parser("pull", help="pull the images by PIPELINE_IMAGE_DIGESTS, and tag them as `build` would")
    pulls.add_argument("--from", dest="source", default="", metavar="PREFIX", help="default: PIPELINE_IMAGE_PREFIX")
    commands.add_parser("promote", help="tag the images of PIPELINE_IMAGE_DIGESTS in their registry")
    lists = commands.add_parser("sbom", help="write what each image holds as CycloneDX, NAME.cdx.json")
    lists.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    lists.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    others = commands.add_parser("third-party", help="print the images of others, with their digests")
    how = others.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="fail if a registry has another digest")
    how.add_argument("--update", action="store_true", help="write the registries' digests into the list")
    commands.add_parser("table", help="print size, start time, user and content of each image as a Markdown table")
    commands.add_parser("list", help="print the names of the images")
    return parser


if __name__ == "__main__":
    sys.exit(main())
