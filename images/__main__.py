"""Builds the images and reports on them: `python3 -m images build|digests|table|list`. Standard library only.

They are named PIPELINE_IMAGE_PREFIX/NAME:PIPELINE_IMAGE_TAG, by default vision-mlops/NAME:dev.
"""

from __future__ import annotations

import argparse
import sys

from images.build import build
from images.declared import images
from images.digests import print_digests
from images.table import print_table


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m images", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    builds = commands.add_parser("build", help="build the named images, or all of them")
    builds.add_argument("names", nargs="*", metavar="NAME", help=", ".join(images()))
    commands.add_parser("digests", help="print PIPELINE_IMAGE_DIGESTS for .env, once the stage images are pushed")
    commands.add_parser("table", help="print size, start time, user and content of each image as a Markdown table")
    commands.add_parser("list", help="print the names of the images")
    options = parser.parse_args(arguments)
    match options.command:
        case "build":
            return build(options.names)
        case "digests":
            return print_digests()
        case "table":
            print_table()
        case _:
            print("\n".join(images()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
