"""Serving: this project's service beside what users would run instead; the same model, the same machine, one run.

    python -m benchmarks.serving

The model has fresh weights, logged by the train stage's own code. Sides, one process that answers each:

    ours         `python -m tasks.serving` with SERVING_WORKERS=1
    ours, all cores   the same with a worker for each CPU
    starlette    Starlette, Pillow and ONNX Runtime with one thread (benchmarks/serving_starlette.py)
    bentoml      the same code as a plain BentoML service (benchmarks/serving_bentoml.py)
    mlflow       `mlflow models serve --env-manager local --workers 1` with one thread for torch, which suits it best;
                 the same pixels, already decoded, as JSON {"inputs": [[[[...]]]]}: the one format it takes

The others get PNG files as multipart forms, as clients of ours do. Only ours and mlflow take several images at once.
All are started in advance and take turns; meanwhile the others are paused (SIGSTOP). The client is a process of its own
with keep-alive connections, raw sockets and requests built in advance; its CPU cost is reported. Latency at a fixed
rate counts from the moment at which a request was due, so one that queues behind a slow one includes its wait.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.http_load import Load, Report
from benchmarks.machine import cpu_model
from benchmarks.report_file import write_above
from benchmarks.serving_sides import BATCH, CLASSES, OURS, Side, compare_answers, log_model, start
from tasks.vision.cpus import available_cpus

NOTES = "## How reliable it is"  # kept when the figures above it are rewritten
INTRODUCTION = """The service beside `mlflow models serve` and beside what users would write, one process that answers
each, taking turns; `ours, all cores` has one for each CPU. Aims: `ours` at least as fast as `starlette`, 8 times
`mlflow` with single images and 5 times in batches; at 20 requests a second and 32 pixels p50 up to 4 ms and p99 up to
8 ms; `ours, all cores` 1.6 times `ours` (0.62 in the last column). Written by `make bench-serving ARGS='--write
docs/benchmarks/serving.md'`; the top of `benchmarks/serving.py` describes each side. Use an otherwise idle machine."""
NETWORKS = ("mobilenet_v3_small", "efficientnet_lite0", "resnet18")
SIZES = (32, 224)
RATE = 20  # requests per second of the latency measurement
CLIENTS = {"batches": 2, "singles": 8}

Found = dict[str, dict[str, list[Report]]]  # by measurement and side, one report per round


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="which networks (%(default)s)")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="pixels of the images' sides (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each side runs once in each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="length of each throughput run (%(default)s)")
    parser.add_argument("--latency-seconds", type=float, default=10, help="length of each latency run (%(default)s)")
    parser.add_argument("--port", type=int, default=21340, help="first of five free ports (%(default)s)")
    parser.add_argument("--write", type=Path, help="also write the report to this Markdown file, above its notes")
    options = parser.parse_args()
    lines: dict[str, list[str]] = {"singles": [], "batches": [], "latency": []}
    for network in options.networks:
        for size in options.sizes:
            found = compare(network, size, options)
            for what, rows in lines.items():
                rows += table(what, network, size, found[what])
    text = report(lines, options)
    print(text)
    if options.write:
        write_above(NOTES, text, options.write)
    return 0


def compare(network: str, size: int, options: argparse.Namespace) -> Found:
    """Start all sides with one network for images of one size, and measure them in turns."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, size, size), np.uint8)
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as folder, ExitStack() as stack:
        settings = log_model(Path(folder), network, images)
        sides = start(Path(folder), settings, options.port, stack)
        load = Load()
        stack.callback(load.close)
        compare_answers(sides, images)
        return measure(sides, load, f"{network}, {size} pixels", options)


def measure(sides: list[Side], load: Load, name: str, options: argparse.Namespace) -> Found:
    """Let the sides take turns; the first round only warms up."""
    found: Found = {"singles": {}, "batches": {}, "latency": {}}

    def take(what: str, side: Side, ask: Callable[[], Report], number: int) -> None:
        before = side.cpu_seconds()
        result = ask()
        result.server_cpu = side.cpu_seconds() - before
        if number > 0:
            found[what].setdefault(side.name, []).append(result)
            print(f"{name}: round {number}: {what}: {side.name}: {result}", flush=True)

    for number in range(options.rounds + 1):
        length = options.seconds if number else 1.0
        paced = options.latency_seconds if number else 1.0
        for side in sides:
            with side.turn():
                time.sleep(0.3)
                for what, messages, images in (("singles", side.single, 1), ("batches", side.batch, BATCH)):
                    if messages:
                        flood = lambda m=messages, w=what, i=images, s=side: load.flood(s.url, m, CLIENTS[w], length, i)  # noqa: B023, E731
                        take(what, side, flood, number)
                take("latency", side, lambda s=side: load.pace(s.url, s.single, RATE, paced), number)  # noqa: B023
    return found


def table(what: str, network: str, size: int, sides: dict[str, list[Report]]) -> list[str]:
    """Make the lines of one network and size, a side each."""
    if what == "latency":
        lines = []
        for name, reports in sides.items():
            together = sorted(1000 * s for one in reports for s in one.seconds)
            p50, p99 = together[len(together) // 2], together[int(0.99 * len(together))]
            lines.append(f"| {network} | {size} | {name} | {p50:.1f} | {p99:.1f} |")
        return lines
    rates = {name: [one.images_per_second for one in reports] for name, reports in sides.items()}
    ours = statistics.median(rates[OURS])
    return [
        f"| {network} | {size} | {name} | {min(values):.0f} | {statistics.median(values):.0f} | {max(values):.0f} | "
        f"{ours / statistics.median(values):.2f} |"
        for name, values in rates.items()
    ]


def report(lines: dict[str, list[str]], options: argparse.Namespace) -> str:
    """Make the Markdown report."""
    rates = [
        "| network | pixels | side | lowest | median | highest | ours / this |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(
        [
            "# Serving",
            "",
            INTRODUCTION,
            "",
            f"## Single images per second, {CLIENTS['singles']} clients",
            "",
            *rates,
            *lines["singles"],
            "",
            f"## Images per second in requests of {BATCH}, {CLIENTS['batches']} clients",
            "",
            *rates,
            *lines["batches"],
            "",
            f"## Latency of single images at {RATE} requests a second",
            "",
            "| network | pixels | side | p50, ms | p99, ms |",
            "|---|---|---|---|---|",
            *lines["latency"],
            "",
            f"- {options.rounds} rounds of {options.seconds:g} s ({options.latency_seconds:g} s for latency) after one "
            f"that warms up; {len(CLASSES)} classes, fresh weights, PNG files of random pixels",
            f"- {available_cpus()} cores of {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end",
            f"- onnxruntime {version('onnxruntime')}, mlflow {version('mlflow')}, torch {version('torch')}, bentoml "
            f"{version('bentoml')}, starlette {version('starlette')}",
            "",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
