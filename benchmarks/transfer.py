"""Transfer learning on photos, ours and what users would write instead, in one run: `make bench-transfer`.

    accuracy     100 and 20 images a class of CIFAR-10: whole runs of `daily_training`, and three peers
                 (`benchmarks/transfer_peers.py`); test accuracy and seconds
    throughput   training at 160 pixels on JPEG photos of 500x375, beside the plain torchvision loop
    contention   training of MobileNetV3-Small at 32 pixels, alone and beside a process that keeps one core busy
    prepare      reading 20,000 JPEG photos of 500x375 with one thread and with all: images per second, memory
    large        all of the archive, pretrained; most of an hour
    scratch      all of the archive, MobileNetV3-Small from random weights, 30 epochs; most of an hour

Each part runs all of its sides itself, so that the ratios do not depend on the machine's speed; use an otherwise idle
machine. --write replaces the sections of the parts that were run, and leaves the others and what was added by hand.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks.machine import cpu_model
from benchmarks.transfer_accuracy import IMAGES, accuracy, large, scratch
from benchmarks.transfer_contention import contention
from benchmarks.transfer_speed import prepare, throughput
from tasks.vision.cpus import available_cpus

TITLES = {
    "accuracy": "## Accuracy",
    "throughput": "## Training throughput",
    "contention": "## Training beside other work",
    "prepare": "## Reading photos",
    "large": "## All of CIFAR-10, pretrained",
    "scratch": "## All of CIFAR-10, from random weights",
}
DEFAULT_PARTS = ("accuracy", "throughput")
VERSIONS = ("torch", "torchvision", "timm", "scikit-learn", "pillow")
NOT_MEASURED = "Not measured yet."
HEAD = """# Transfer learning

Written by `make bench-transfer ARGS='--write docs/benchmarks/transfer.md'`, part by part
(`ARGS='--part prepare --write ...'`); the top of `benchmarks/transfer.py` describes each part.
"""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, required=True, help="CIFAR-10 as .tar.gz, with train/CLASS/* and test/CLASS/*"
    )
    parser.add_argument(
        "--part", action="append", choices=TITLES, help="default: accuracy and throughput; may be repeated"
    )
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="images a class; all counts are scaled with it (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of throughput, contention and prepare (%(default)s)")
    parser.add_argument(
        "--work", type=Path, help="keep images, homes and logs in this folder, and use the images again"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the sections to this Markdown file")
    options = parser.parse_args(arguments)
    for name in ("images", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}={getattr(options, name)}: give 1 or more")
    if not options.source.is_file():
        parser.error(
            f"--source {options.source} is not a file; give CIFAR-10: make bench-transfer SOURCE=cifar10.tar.gz"
        )
    with tempfile.TemporaryDirectory(prefix="transfer-", ignore_cleanup_errors=True) as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        of_speed = {"throughput": throughput, "contention": contention, "prepare": prepare}
        measures: dict[str, Callable[..., list[str]]] = {
            "accuracy": accuracy,
            **{name: partial(measure, rounds=options.rounds) for name, measure in of_speed.items()},
            "large": large,
            "scratch": scratch,
        }
        for part in options.part or DEFAULT_PARTS:
            try:
                lines = measures[part](options.source, work, options.images)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                return 1
            section = "\n".join([*lines, "", machine()])
            print(f"{TITLES[part]}\n\n{section}\n", flush=True)
            if options.write:  # at once: the next part may take hours
                before = options.write.read_text(encoding="utf-8") if options.write.exists() else ""
                options.write.write_text(page(before, {TITLES[part]: section}), encoding="utf-8")
    return 0


def machine() -> str:
    """Describe machine, versions and date in one paragraph."""
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {available_cpus()} cores of {cpu_model()}, load average "
        f"{os.getloadavg()[0]:.1f} at the end;\n{versions}, Python {platform.python_version()}."
    )


def page(before: str, measured: Mapping[str, str]) -> str:
    """Return the page with new sections.

    Args:
        before: the page as it was, or "".
        measured: the text of each new section, by its heading. Sections of the page that are not here stay as they
            are, those that were written by hand too, at the end.
    """
    sections = dict.fromkeys(TITLES.values(), NOT_MEASURED)
    for part in before.split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        sections[f"## {title}"] = text.strip()
    sections |= measured
    return "\n".join([HEAD, *(f"{title}\n\n{text.strip()}\n" for title, text in sections.items())])


if __name__ == "__main__":
    raise SystemExit(main())
