"""Whether two releases compute the same: gold fingerprint, losses of every epoch, digest of the trained model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from .checkout import Checkout
from .image_folder import write_archive

# Named here and not read from today's table: the commit before must know them too.
NETWORKS = ("fast_cnn", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18")
EPOCHS = 2
HEADER = ("data", "network", "gold fingerprint", "losses", "last validation loss", "model digest")
SHOWN = 12  # characters of a digest
DIFFERENT = "DIFFERENT"


@dataclass(frozen=True)
class Result:
    """What one release made of one data set with one network."""

    fingerprint: str
    losses: tuple[tuple[float, float], ...]
    """Of training and of validation, for each epoch."""
    digest: str
    threads: str = field(compare=False)
    """That the training used; the losses show it where it matters."""


@dataclass(frozen=True)
class Pair:
    """The results of both releases."""

    data: str
    network: str
    before: Result
    today: Result

    @property
    def equal(self) -> bool:
        """Whether nothing differs, to the last digit."""
        return self.before == self.today

    @property
    def cells(self) -> tuple[str, ...]:
        """One row of the table under `HEADER`."""
        before, today = self.before, self.today
        counted = f"equal ({2 * len(before.losses)} values)" if before.losses == today.losses else DIFFERENT
        last = [repr(result.losses[-1][1]) for result in (before, today)]
        return (
            self.data,
            self.network,
            _digests(before.fingerprint, today.fingerprint),
            counted,
            last[0] if last[0] == last[1] else f"{last[0]}, then {last[1]}",
            _digests(before.digest, today.digest),
        )


def compare(
    before: Checkout, today: Checkout, networks: Sequence[str], work: Path, say: Callable[[str], None]
) -> Iterator[Pair]:
    """Prepare both data sets and train every network in both checkouts, each with a PIPELINE_HOME of its own."""
    archive = work / "images.tar"
    write_archive(archive)
    homes = {before: work / "results-before", today: work / "results-today"}
    for home in homes.values():
        shutil.rmtree(home, ignore_errors=True)  # of an earlier call: its results would be taken again
    for data, request in {
        "digits": {"dataset": "digits"},
        "image folder": {"dataset": "image_folder", "source": str(archive), "image_size": 32},
    }.items():
        sides = {side: _Side(side, home, data.replace(" ", "-")) for side, home in homes.items()}
        for side in sides.values():
            side.prepare(request)
        for network in networks:
            pair = Pair(data, network, *(side.train(network) for side in sides.values()))
            say(" | ".join(pair.cells))
            yield pair


def table(pairs: Sequence[Pair]) -> str:
    """All rows as a Markdown table."""
    lines = [HEADER, ("---",) * len(HEADER), *(pair.cells for pair in pairs)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


class _Side:
    """One release's stages on one data set."""

    def __init__(self, checkout: Checkout, home: Path, data: str) -> None:
        self._checkout, self._home, self._data = checkout, home, data
        self._prepared: dict[str, Any] = {}

    def prepare(self, request: Mapping[str, Any]) -> None:
        self._prepared = self._stage("prepare", "prepare", request)

    def train(self, network: str) -> Result:
        asked = {"prepare_run_id": self._prepared["run_id"], "model": network, "epochs": EPOCHS, "device": "cpu"}
        trained = self._stage("train", f"train-{network}", asked)
        client = MlflowClient(f"sqlite:///{self._home / 'mlflow.db'}")
        both = (_history(client, trained["run_id"], f"{part}_loss") for part in ("train", "validation"))
        return Result(
            fingerprint=self._prepared["fingerprint"],
            losses=tuple(zip(*both, strict=True)),
            digest=trained["model_sha256"],
            threads=client.get_run(trained["run_id"]).data.tags["pipeline.threads"],
        )

    def _stage(self, stage: str, task: str, request: Mapping[str, Any]) -> dict[str, Any]:
        identity = {"dag_id": "upgrade", "dag_run_id": self._data, "task_id": task}
        file = self._home / f"{self._data}-{task}.json"
        file.parent.mkdir(exist_ok=True)
        text = json.dumps({"task": identity, **request})
        variables = {"PIPELINE_HOME": str(self._home), "OMP_NUM_THREADS": "1"}
        arguments = [stage, "--request", text, "--result", str(file)]
        self._checkout.run("stage", *arguments, runtime="local", variables=variables)
        return dict(json.loads(file.read_text()))


def _history(client: MlflowClient, run_id: str, name: str) -> list[float]:
    return [metric.value for metric in sorted(client.get_metric_history(run_id, name), key=lambda m: m.step)]


def _digests(before: str, today: str) -> str:
    if before == today:
        return f"equal, `{before[:SHOWN]}`"
    return f"{DIFFERENT}: `{before[:SHOWN]}`, then `{today[:SHOWN]}`"
