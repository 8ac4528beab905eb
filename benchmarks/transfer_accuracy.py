"""Accuracy of transfer learning, and what it costs: whole runs of `daily_training`, and the peers beside them.

A run of ours is what `make run` does on a fresh machine: it prepares Airflow's database, runs every stage in a process
of its own and starts the service, all in a home of its own. Its seconds are those of all that; the seconds of the train
stage are those from its request to its result. A peer's seconds are those of its whole process; those of training
are without imports and without the test.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.image_files import class_folders
from benchmarks.runtimes import BEGUN, DONE, ROOT, seconds_of

IMAGES, FEW, TEST = 100, 20, 200  # of each class
PREPARE = (
    'mkdir -p "$PIPELINE_HOME"; { airflow db migrate && airflow dags reserialize; } >"$PIPELINE_HOME/airflow.log" 2>&1'
)
RUN = 'python -m pipeline run daily_training "$CONF"'
ACCURACY = re.compile(r"\] +evaluate: done in .*?\baccuracy=(?P<accuracy>[0-9.e-]+)")
# Set by deploy/env.sh from PIPELINE_HOME, unless they are there already: this benchmark may run with those of `make`.
OF_HOME = ("AIRFLOW_HOME", "MLFLOW_TRACKING_URI", "PIPELINE_RUNTIME")


@dataclass(frozen=True)
class Outcome:
    """What one training gave: test accuracy, and seconds of the whole and of the training."""

    accuracy: float
    whole: float
    training: float


Row = tuple[int, str, Outcome]  # images of each class, who


def accuracy(source: Path, work: Path, images: int) -> list[str]:
    """Train ours and the peers, one after the other; return the section's lines."""
    many, few = (scaled(count, images) for count in (IMAGES, FEW))
    folders = {
        count: class_folders(source, work / f"{count}-a-class", {"train": count, "test": scaled(TEST, images)})
        for count in (many, few)
    }
    rows: list[Row] = []

    def add(count: int, who: str, outcome: Outcome) -> None:
        rows.append((count, who, outcome))
        print(f"{who}, {count} images a class: {outcome}", file=sys.stderr, flush=True)

    def add_ours(count: int, who: str, values: Mapping[str, Any]) -> None:
        conf = {"dataset": "image_folder", "source": str(folders[count]), **values}
        add(count, who, ours(conf, work))

    add_ours(many, "ours, all defaults", {})
    add(many, "plain torchvision loop, 96 pixels, 5 epochs", peer("fine-tune", folders[many]))
    add(many, "the same, 128 pixels, 10 epochs, layer by layer", peer("layer-decay", folders[many]))
    add_ours(many, "ours, `finetune=head`", {"finetune": "head"})
    add(many, "frozen features, logistic regression", peer("features", folders[many]))
    add_ours(few, "ours, all defaults", {})
    add(few, "frozen features, logistic regression", peer("features", folders[few]))
    return [
        f"CIFAR-10 files, {scaled(TEST, images)} of each class for the test, EfficientNet-Lite0 with its pretrained",
        "weights; one training of each, one after the other.",
        "",
        *table(rows),
        "",
        "Targets: with 100 a class at least 75 % within 360 s, and better than each peer; `head` at least 71 % with at",
        "most 45 s of training; with 20 a class at least 65 %.",
    ]


def large(source: Path, work: Path, images: int) -> list[str]:
    """Train on the whole archive, from pretrained weights with all defaults. Takes most of an hour."""
    outcome = ours(_archive(source, work, images), work)
    return _alone(outcome, "pretrained, all defaults", "Target: at least 94 % within 3,600 s of training.")


def scratch(source: Path, work: Path, images: int) -> list[str]:
    """Train MobileNetV3-Small on the whole archive from random weights. Takes most of an hour."""
    chosen = {"model": "mobilenet_v3_small", "finetune": "scratch", "epochs": 30}
    outcome = ours(_archive(source, work, images) | chosen, work)
    return _alone(outcome, "`mobilenet_v3_small` from random weights, 30 epochs", "Target: at least 90 %.")


def _archive(source: Path, work: Path, images: int) -> dict[str, str]:
    """Params for all of the archive, or for as many images of each class in a trial of the benchmark."""
    if images < IMAGES:
        source = class_folders(source, work / "large", {"train": images, "test": images})
    return {"dataset": "image_folder", "source": str(source.resolve())}


def _alone(one: Outcome, who: str, target: str) -> list[str]:
    return [
        "All images of the archive, given to `daily_training` as it is; its test images for the test.",
        "",
        "| | test accuracy | whole run, s | training, s |",
        "|---|---|---|---|",
        f"| {who} | {one.accuracy:.2%} | {one.whole:.0f} | {one.training:.0f} |",
        "",
        target,
    ]


def scaled(count: int, images: int) -> int:
    """Scale a number of images as --images does with the 100 of each class."""
    return max(3, count * images // IMAGES)


def ours(conf: Mapping[str, Any], work: Path) -> Outcome:
    """Run `daily_training` once with a fresh home in the folder `work`: no result of another run is reused.

    Raises:
        RuntimeError: the run failed, or its log is not as expected.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        serving = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name not in OF_HOME}
    environment |= {
        "PIPELINE_HOME": tempfile.mkdtemp(prefix="home-", dir=work),
        "SERVING_URL": serving,
        "CONF": json.dumps(conf),
    }
    began = time.perf_counter()
    try:
        done = _bash(f"{PREPARE} && {RUN}", environment)
        whole = time.perf_counter() - began
    finally:
        _bash("python -m tasks serve --stop", environment)
    log = done.stdout + done.stderr
    if done.returncode != 0:
        raise RuntimeError(f"the run with {conf} failed:\n{log[-3000:]}")
    return outcome(log, whole)


def outcome(log: str, whole: float) -> Outcome:
    """Read a run's log.

    Raises:
        RuntimeError: the log has no request or result of train, or no accuracy.
    """
    begun = {found["stage"]: seconds_of(found["at"]) for found in BEGUN.finditer(log)}
    done = {found["stage"]: seconds_of(found["at"]) for found in DONE.finditer(log)}
    measured = ACCURACY.search(log)
    if "train" not in begun or "train" not in done or measured is None:
        raise RuntimeError(f"no result of train or evaluate in the log:\n{log[-3000:]}")
    return Outcome(float(measured["accuracy"]), whole, done["train"] - begun["train"])


def peer(name: str, folder: Path) -> Outcome:
    """Run a peer in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.transfer_peers", name, str(folder.resolve())]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603  # ours
    whole = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Outcome(found["accuracy"], whole, found["training"])


def table(rows: Sequence[Row]) -> list[str]:
    """Make the Markdown table; each row is compared with the first one of as many images."""
    lines = [
        "| images a class | | test accuracy | ours ahead, points | whole, s | whole / ours | training, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for count, who, one in rows:
        first = next(other for images, _, other in rows if images == count)
        lines.append(
            f"| {count} | {who} | {one.accuracy:.2%} | {100 * (first.accuracy - one.accuracy):+.1f} "
            f"| {one.whole:.0f} | {one.whole / first.whole:.2f} | {one.training:.0f} |"
        )
    return lines


def _bash(script: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-euo", "pipefail", "-c", f". deploy/env.sh local; {script}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: S603  # ours
