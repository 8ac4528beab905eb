"""Inference: torch, ONNX Runtime and OpenVINO on the same weights, same machine, one run.

    python -m benchmarks.inference

OpenVINO is no dependency of this project: `pip install --target FOLDER openvino`, and FOLDER at the end of PYTHONPATH.
Each network gets fresh weights, which cost what trained ones cost, and is exported as train does it. Sides, one
thread each:

    torch          the program that torch.export leaves
    onnxruntime    its ONNX form, opened by the service's own code
    openvino       the same ONNX form, in float32

The sides take turns, an image or a batch each, so that other load on the machine slows all of them. Memory and the
time to open are measured in a new process for each side: what the process has more than before it imported the runtime.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.machine import cpu_model
from benchmarks.report_file import write_above
from benchmarks.turns import apart
from tasks.vision.models.forward import Forward

NETWORKS = ("mobilenet_v3_small", "efficientnet_lite0", "resnet18")
SIDES = ("torch", "onnxruntime", "openvino")
IMAGE_SIZES = (32, 224)
BATCH = 32
CLASSES = 10
MEGABYTE = 1e6
NOTES = "## What follows from it"  # kept when the figures above it are rewritten


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60, help="images that each side classifies (%(default)s)")
    parser.add_argument("--write", type=Path, help="also write the report to this Markdown file, above its notes")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-inference-") as folder:
        for network in NETWORKS:
            for size in IMAGE_SIZES:
                forms = Path(folder) / f"{network}-{size}"
                export(forms, network, size)
                rows += measure(forms, network, size, options.turns)
                print(*rows[-len(SIDES) :], sep="\n", file=sys.stderr)
    text = report(rows, options.turns)
    print(text)
    if options.write:
        write_above(NOTES, text, options.write)
    return 0


def export(folder: Path, network: str, size: int) -> None:
    """Write both forms of a network for square colour images, as train does."""
    from mlflow.models import Model

    from tasks.records import model_store
    from tasks.vision.models.build import build
    from tasks.vision.models.classifier import Classifier

    mean = std = (0.5, 0.5, 0.5)
    classifier = Classifier(build(network, CLASSES, (3, size, size)), mean, std).eval()
    example = np.zeros((2, 3, size, size), np.uint8)
    model_store.save(classifier, folder, Model(), example, [f"class {number}" for number in range(CLASSES)], {})


def opened(side: str, folder: Path) -> Forward:
    """Open the side's form with one thread."""
    # Each runtime is imported here, so that a process has no other than its side's.
    if side == "torch":
        import torch

        from tasks.vision.models.classifier import forward_of

        torch.set_num_threads(1)
        return forward_of(torch.export.load(folder / "data/model.pt2").module())
    if side == "onnxruntime":
        from tasks.serving.runtimes import open_onnx

        return open_onnx(folder / "data/model.onnx", threads=1)
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(folder / "data/model.onnx"), "CPU", settings)
    return lambda images: compiled(images)[0]


def opening(side: str, folder: Path, size: int) -> tuple[float, float]:
    """Return the seconds until a new process has its first answer, and the memory that takes, in bytes."""
    before, start = _resident(), time.perf_counter()
    opened(side, folder)(np.zeros((1, 3, size, size), np.uint8))
    return time.perf_counter() - start, float(_resident() - before)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(folder: Path, network: str, size: int, turns: int) -> list[str]:
    """Let the sides take turns; a line of the table for each."""
    batch = np.random.default_rng(0).integers(0, 256, (BATCH, 3, size, size), np.uint8)
    forwards = {side: opened(side, folder) for side in SIDES}
    answers = [forward(batch) for forward in forwards.values()]
    if not all(np.allclose(answer, answers[0], atol=1e-4) for answer in answers):
        raise SystemExit(f"{network}: the runtimes give different answers")
    singles = _in_turns(forwards, batch[:1], turns)
    batches = _in_turns(forwards, batch, max(3, turns // 10))
    lines = []
    for side in SIDES:
        seconds, memory = apart(opening, side, folder, size)
        lines.append(
            f"| {network} | {size} | {side} | {1e3 * statistics.median(singles[side]):.2f} | "
            f"{1e3 * float(np.percentile(singles[side], 95)):.2f} | {BATCH / statistics.median(batches[side]):.0f} | "
            f"{seconds:.1f} | {memory / MEGABYTE:.0f} |"
        )
    return lines


def _in_turns(forwards: dict[str, Forward], images: np.ndarray, turns: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {side: [] for side in forwards}
    for turn in range(turns + 3):
        for side, forward in forwards.items():
            start = time.perf_counter()
            forward(images)
            if turn >= 3:  # the first ones warm up
                seconds[side].append(time.perf_counter() - start)
    return seconds


def report(rows: Iterable[str], turns: int) -> str:
    """Make the Markdown report."""
    return "\n".join(
        [
            "# Inference",
            "",
            "The same weights in three runtimes, one thread each, taking turns. Written by",
            "`make bench-inference ARGS='--write docs/benchmarks/inference.md'`; the top of `benchmarks/inference.py`",
            "says how OpenVINO is made available. Use an otherwise idle machine.",
            "",
            "| network | pixels | runtime | one image, ms: p50 | p95 | images/s in batches | open, s | memory, MB |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"- {turns} single images and {max(3, turns // 10)} batches of {BATCH}; {CLASSES} classes, fresh weights",
            "- open: import of the runtime, opening and first answer, in a new process that has numpy already",
            f"- {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end",
            f"- torch {version('torch')}, onnxruntime {version('onnxruntime')}, openvino {version('openvino')}",
            "",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
