"""Whether a release works on with the state that the one before left: champion, ledger, earlier results.

The release before runs `daily_training` once into a home. The checks are the same for a folder (`.local`, here) and
for a stack's volumes (`tests.upgrade.volumes`): a `Home` is where both releases run.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.reuse import code_digest
from tasks.serving import process

from .checkout import Checkout

DAG = "daily_training"
EXPERIMENT = "vision-mlops"
MODEL = "vision-classifier"
STAGES = ("prepare", "train", "evaluate", "register")
RESULT, REUSED_FROM, GOLD_RUN = "pipeline.result", "pipeline.reused_from", "pipeline.gold_run_id"
# Trains something else than the first day did, and what it trains takes over.
NEXT_DAY = {
    "epochs": 4,
    "min_accuracy": 0,
    "min_macro_f1": 0,
    "max_calibration_error": 1,
    "proof": "not_worse",
    "non_inferiority_margin": 0.9,
    "max_slowdown": 100,
    "max_memory_growth": 100,
}


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    what: str
    found: str
    holds: bool


@dataclass(frozen=True)
class Home:
    """Where a pipeline's state lies, and what its commands need to know to work on it."""

    runtime: str
    variables: Mapping[str, str]
    serving_url: str
    tracking_uri: str

    def run_daily(self, checkout: Checkout, conf: Mapping[str, Any]) -> dict[str, Run]:
        """Run the daily DAG once, and return the stages' runs that it made, by stage."""
        marker = '"$AIRFLOW_HOME/.migrated"'  # as `make ready` does it: only on a home that has none
        migrate = f'mkdir -p "$AIRFLOW_HOME" && {{ [ -e {marker} ] || {{ airflow db migrate && touch {marker}; }}; }}'
        checkout.shell(migrate, runtime=self.runtime, variables=self.variables)
        known = {run.info.run_id for run in self.runs()}
        checkout.run("run", DAG, json.dumps(conf), runtime=self.runtime, variables=self.variables)
        return {run.data.tags["pipeline.stage"]: run for run in self.runs() if run.info.run_id not in known}

    def deploy(self, checkout: Checkout, version: int) -> dict[str, Any]:
        """Run the deploy stage for a version: it compares the service's answers with the stored predictions."""
        identity = {"dag_id": "upgrade", "dag_run_id": f"version-{version}", "task_id": "deploy"}
        request = json.dumps({"task": identity, "registered_model": MODEL, "version": version})
        with tempfile.TemporaryDirectory(prefix="upgrade-") as folder:
            file = Path(folder) / "result.json"
            arguments = ["deploy", "--request", request, "--result", str(file)]
            checkout.run("stage", *arguments, runtime=self.runtime, variables=self.variables)
            return dict(json.loads(file.read_text()))

    def history(self, checkout: Checkout) -> list[dict[str, Any]]:
        """The ledger's records, newest first."""
        said = checkout.run("history", "--json", runtime=self.runtime, variables=self.variables)
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    def export(self, checkout: Checkout, version: int) -> str:
        """Give a version its ONNX form, if it has none; what the command says."""
        said = checkout.run("export", "--version", str(version), runtime=self.runtime, variables=self.variables)
        return said.splitlines()[-1]

    def rollback(self, checkout: Checkout) -> None:
        """Make the champion before the champion again."""
        checkout.run("rollback", "--reason", "upgrade check", runtime=self.runtime, variables=self.variables)

    def champion(self) -> int:
        """The version that the alias names."""
        return int(self._client().get_model_version_by_alias(MODEL, "champion").version)

    def versions(self) -> list[int]:
        """Every version there is."""
        return sorted(int(found.version) for found in self._client().search_model_versions(f"name = '{MODEL}'"))

    def served(self) -> int:
        """The version that the service has."""
        answer = requests.post(f"{self.serving_url}/get_model_info", timeout=120)
        answer.raise_for_status()
        return int(answer.json()["model_version"])

    def _client(self) -> MlflowClient:
        return MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)

    def runs(self) -> list[Run]:
        """Every run of the pipeline, the newest first."""
        database = self.tracking_uri.removeprefix("sqlite:///")
        if database != self.tracking_uri and not Path(database).exists():
            return []  # to ask would make it, and that is for the release before to do
        found = self._client().get_experiment_by_name(EXPERIMENT)
        return list(self._client().search_runs([found.experiment_id], max_results=1000)) if found else []


def result(run: Run) -> dict[str, Any]:
    """What a stage's run answered."""
    return dict(json.loads(run.data.tags[RESULT]))


def checks(home: Home, before: Checkout, today: Checkout, first_day: Mapping[str, Run]) -> Iterator[Check]:
    """Work on with what the release before left in `home`, whose daily run made the runs of `first_day`."""
    records = home.history(today)
    moves = [(record["kind"], record["to_version"]) for record in records]
    yield Check("history shows the promotion", f"{moves}", moves == [("promotion", 1)])

    deployed = home.deploy(today, 1)
    found = f"version {home.served()}, {deployed['answers_checked']} answers equal the reference predictions"
    yield Check("the champion serves", found, home.served() == 1 and deployed["answers_checked"] > 0)
    yield from _in_onnx(home, today)

    yield from _same_day(home.run_daily(today, {}), first_day, home, _same_code(before, today))

    second = home.run_daily(today, NEXT_DAY)
    judged = result(second["evaluate"])
    found = f"champion_version={judged['champion_version']}, champion_accuracy={judged['champion_accuracy']}"
    compared = judged["champion_version"] == 1 and judged["champion_accuracy"] is not None
    yield Check("a daily run compares with the old champion", found, compared)
    now = f"champion {home.champion()}, served {home.served()}, versions {home.versions()}"
    promoted = (home.champion(), home.served(), home.versions()) == (2, 2, [1, 2])
    yield Check("what it promotes takes over", now, promoted and REUSED_FROM not in second["train"].data.tags)

    third = home.run_daily(today, NEXT_DAY)
    took = third["train"].data.tags.get(REUSED_FROM, "nothing")
    yield Check(
        "the same run again reuses the training", f"reused: {_short(took)}", took == second["train"].info.run_id
    )

    home.rollback(today)
    newest = home.history(today)[0]
    found = f"champion {home.champion()}, served {home.served()}, history: {newest['kind']} to {newest['to_version']}"
    back = (home.champion(), home.served(), newest["kind"], newest["to_version"]) == (1, 1, "rollback", 1)
    yield Check("rollback goes back to the old champion", found, back)


def _in_onnx(home: Home, today: Checkout) -> Iterator[Check]:
    """The service has no torch: what the release before registered gets an ONNX form once, and answers as before."""
    said = [home.export(today, 1) for _ in range(2)]
    yield Check("the champion has an ONNX form", said[0], "ONNX" in said[0])
    yield Check("exporting it again does nothing", said[1], said[1].endswith("nothing to do"))
    if home.runtime == "local":  # the service of a laptop has torch, and loaded the champion with it
        process.stop(Path(home.variables["PIPELINE_HOME"]))
    deployed = home.deploy(today, 1)
    found = f"version {home.served()}, {deployed['answers_checked']} answers equal the reference predictions"
    yield Check("it answers in ONNX as before", found, home.served() == 1 and deployed["answers_checked"] > 0)


def _same_day(again: Mapping[str, Run], first: Mapping[str, Run], home: Home, same_code: bool) -> Iterator[Check]:
    """The first day's run once more, by the new release: the data are the same, the code may not be."""
    gold = again["prepare"].data.tags[GOLD_RUN]
    yield Check("the old gold is reused", _short(gold), gold == first["prepare"].info.run_id)
    took = again["train"].data.tags.get(REUSED_FROM, "nothing")
    wanted = first["train"].info.run_id if same_code else "nothing"
    what = (
        "the old training is reused, for its code is the same" if same_code else "no training of other code is reused"
    )
    yield Check(what, f"reused: {_short(took)}", took == wanted)
    digests = [result(day["train"])["model_sha256"] for day in (first, again)]
    found = " and ".join(map(_short, digests))
    yield Check("the same training gives the same model", found, digests[0] == digests[1])
    unchanged = not result(again["evaluate"])["promote"] and home.versions() == [1]
    yield Check("the old champion's weights make no new version", f"versions {home.versions()}", unchanged)


def _same_code(before: Checkout, today: Checkout) -> bool:
    return len({code_digest.of_stage("train", side.root / "tasks") for side in (before, today)}) == 1


def _short(run_id: str) -> str:
    return run_id[:12]


def check_folder(before: Checkout, today: Checkout, work: Path) -> Iterator[Check]:
    """Have the release before fill a home under `work`, and check it there.

    A copy is kept beside it, which the next call with the same commit puts back: MLflow's database holds the paths of
    artifacts, so the home has to lie where it was made.
    """
    folder, left = work / "home", work / f"home-left-by-{before.name[:12]}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    variables = {"PIPELINE_HOME": str(folder), "SERVING_URL": url, "OMP_NUM_THREADS": "1"}
    home = Home("local", variables, url, f"sqlite:///{folder / 'mlflow.db'}")
    with _service_ended(folder):
        shutil.rmtree(folder, ignore_errors=True)  # before anything opens its database
        if left.exists():
            shutil.copytree(left, folder)
        else:
            home.run_daily(before, {})
            process.stop(folder)
            shutil.copytree(folder, left)
        first_day = {run.data.tags["pipeline.stage"]: run for run in home.runs()}
        yield from checks(home, before, today, first_day)


@contextmanager
def _service_ended(folder: Path) -> Iterator[None]:
    """End the service of a home, by the process ID that it left there, whatever happens."""
    try:
        yield
    finally:
        process.stop(folder)
