"""Takes MLflow, Postgres or the S3 store away for 20 s at a random time of a daily pipeline, on the real stack.

python -m tests.chaos.outages [--times 10] [--seed 0] [--service mlflow postgres s3] [--seconds 20]

A service is killed and restarted, or paused and unpaused: connections are refused, or hang. Stages are processes of
their own, retried as in the DAGs; the final state is compared with that of an undisturbed day. Needs an engine.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.text_table import columns

from . import state
from .forks import in_child
from .kills import TRIES, compare
from .lab import Lab
from .state import State
from .steps import STEPS

SERVICES = ("mlflow", "postgres", "s3")
WAYS = {"killed": ("kill", "start"), "frozen": ("pause", "unpause")}
DAY = tuple(step for step in STEPS if step.name.endswith("-day1"))
SECONDS = 20.0
LATEST = 0.8  # of an undisturbed day: some days are shorter, and an outage after the end shows nothing
RETRY_DELAY = 5.0  # seconds; the DAGs wait 30, which is easier to survive
# Numbers that differ from day to day, because MLflow counts up.
COUNTED = ((r'("?experiment_id"?\W+)\d+', r"\1N"), (r"mlflow-artifacts:/\d+/", "mlflow-artifacts:/N/"))
COUNTED += ((r"#/experiments/\d+/", "#/experiments/N/"),)
# Digests over run IDs, which differ every day; what the IDs stand for is compared.
OVER_IDS = re.compile(r"tag pipeline\.request_sha256$|evaluate \| tag pipeline\.(measured|reuse)_key$")


@dataclass(frozen=True)
class Outage:
    """One outage of one service."""

    service: str
    way: str
    after: float
    """Seconds from the beginning of the day."""

    def __str__(self) -> str:
        """Describe it in one line."""
        return f"{self.service} {self.way} after {self.after:.1f} s"


@dataclass(frozen=True)
class Day:
    """One day's pipeline, from prepare to deploy."""

    state: State
    seconds: float
    tries: dict[str, list[int]]
    """Exit codes of every try of each stage."""
    log: str


@dataclass(frozen=True)
class Outcome:
    """The result of an outage."""

    outage: Outage
    day: Day
    lost: tuple[str, ...]
    doubled: tuple[str, ...]

    @property
    def survived(self) -> bool:
        """Whether every stage succeeded and the final state is that of the undisturbed day."""
        return not (self.lost or self.doubled) and all(codes[-1] == 0 for codes in self.day.tries.values())


class Outages:
    """Days on one stack, one after another, each starting from an empty state."""

    def __init__(self, stack: Any, lab: Lab) -> None:
        """Point the lab's stages at the stack (`tests.stack.conftest.Stack`)."""
        self._stack, self._lab = stack, lab
        os.environ["MLFLOW_TRACKING_URI"] = stack.mlflow_url
        os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = stack.login
        os.environ["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] = "false"  # it uses the store's name inside the network
        self._expected = self._day()

    @property
    def undisturbed(self) -> Day:
        """The day that all others are compared with."""
        return self._expected

    def plan(self, services: Sequence[str], times: int, seed: int) -> list[Outage]:
        """Choose when and how each service fails, `times` times."""
        chance = random.Random(seed)  # noqa: S311  # a choice, not a secret
        ways = list(WAYS)
        return [
            Outage(service, ways[number % len(ways)], chance.uniform(0, LATEST * self._expected.seconds))
            for number in range(times)
            for service in services
        ]

    def disturb(self, outage: Outage, seconds: float = SECONDS) -> Outcome:
        """Run a day during which a service is away for `seconds`."""
        day = self._day(self._away(outage, seconds))
        if day.seconds < outage.after:
            raise RuntimeError(f"{outage}: the day had ended after {day.seconds:.1f} s; nothing was disturbed")
        lost, doubled, _ = compare(self._expected.state, day.state)
        return Outcome(outage, day, tuple(lost), tuple(doubled))

    def again(self) -> Outcome:
        """Repeat the day without an outage: what differs then is not masked and should be."""
        day = self._day()
        lost, doubled, _ = compare(self._expected.state, day.state)
        return Outcome(Outage("nothing", "away", 0.0), day, tuple(lost), tuple(doubled))

    @contextlib.contextmanager
    def _away(self, outage: Outage, seconds: float) -> Iterator[None]:
        """In a process of its own, because forking one that has threads is not safe."""
        container = f"{self._stack.variables['STACK_NAME']}-{outage.service}-1"
        begin, end = WAYS[outage.way]
        script = f"sleep {outage.after}; docker {begin} {container}; sleep {seconds}; docker {end} {container}"
        with subprocess.Popen(["sh", "-ec", script], stdout=subprocess.DEVNULL) as process:
            yield
        if process.returncode != 0:
            raise RuntimeError(f"{outage}: it did not happen")

    def _day(self, disturbance: contextlib.AbstractContextManager[None] | None = None) -> Day:
        """Run the stages one after another, each with its retries; when the outage is over, read the state.

        The next day starts from an empty state.
        """
        with disturbance or contextlib.nullcontext():
            results, tries, seconds, log = self._stages()
        self._stack.start()  # waits until what was away is healthy
        service = self._lab.service()
        read = in_child(lambda: state.read(service, self._rewrite))
        found = {key: "over IDs" if OVER_IDS.search(key) else value for key, value in read.items()}
        for step_name, result in results.items():
            told = {key: value for key, value in result.items() if key != "experiment_id"}
            found |= {f"{step_name} {key}": value for key, value in state.of_result(told).items()}
        self._lab.stop_service()
        in_child(_forget)
        return Day(found, seconds, tries, log)

    def _stages(self) -> tuple[dict[str, Any], dict[str, list[int]], float, str]:
        """Run every stage; return results, exit codes, total seconds and logs."""
        lab, results, tries, logs = self._lab, dict[str, Any](), dict[str, list[int]](), list[str]()
        began = time.monotonic()
        for step in DAY:
            codes = tries[step.stage] = []
            for _ in range(TRIES):
                if codes:
                    time.sleep(RETRY_DELAY)
                lab.clear()
                ended = lab.run(step, results)
                codes.append(ended.code)
                logs.append(f"--- {step.stage}\n{ended.log}")
                if ended.code == 0:
                    break
            else:
                break
            results[step.name] = ended.result or {}
        return results, tries, time.monotonic() - began, "\n".join(logs)

    def _rewrite(self, text: str) -> str:
        for counted, name in COUNTED:
            text = re.sub(counted, name, text)
        return self._lab.anywhere(text)


def _forget() -> None:
    """Rename and delete everything in MLflow; in a child process only."""
    from mlflow import MlflowClient

    client = MlflowClient()
    for registered in client.search_registered_models():
        client.delete_registered_model(registered.name)
    for experiment in client.search_experiments():
        if experiment.name != "Default":
            client.rename_experiment(experiment.experiment_id, f"{experiment.name}-{time.time_ns()}")
            client.delete_experiment(experiment.experiment_id)


@contextlib.contextmanager
def on_a_stack() -> Iterator[Outages]:
    """Start a stack and a lab, and run the undisturbed day."""
    os.environ.setdefault("TEST_STACK", "vm-chaos")
    os.environ.setdefault("TEST_STACK_PORT", "21480")
    from tests.stack.conftest import running

    with tempfile.TemporaryDirectory(prefix="chaos-") as name, running(Path(name)) as stack:
        lab = Lab(Path(name) / "0")
        try:
            yield Outages(stack, lab)
        finally:
            lab.close()


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Run what is asked for; 0 when every outage was survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.outages", description=__doc__.splitlines()[0])
    parser.add_argument("--service", choices=SERVICES, nargs="+", default=SERVICES)
    parser.add_argument("--times", type=int, default=10, help="outages of each service (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of each outage (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    with on_a_stack() as outages:
        say(f"undisturbed: {outages.undisturbed.seconds:.0f} s, exit codes {outages.undisturbed.tries}")
        plan = outages.plan(options.service, options.times, options.seed)
        days = (outages.disturb(outage, options.seconds) for outage in plan)
        for outcome in itertools.chain([outages.again()], days):  # printed as they come
            outcomes.append(outcome)
            say(_told(outcome))
    say(_table(outcomes[1:]))
    return 0 if all(outcome.survived for outcome in outcomes) else 1


def _told(outcome: Outcome) -> str:
    retried = ", ".join(f"{stage} {codes}" for stage, codes in outcome.day.tries.items() if len(codes) > 1)
    head = f"{outcome.outage}: {outcome.day.seconds:.0f} s{', ' + retried if retried else ''}"
    if outcome.survived:
        return head
    lines = [f"  lost: {line}" for line in outcome.lost[:8]] + [f"  doubled: {line}" for line in outcome.doubled[:8]]
    return "\n".join([f"NOT SURVIVED: {head}", *lines, *(f"  | {line}" for line in outcome.day.log.splitlines()[-40:])])


def _table(outcomes: Sequence[Outcome]) -> str:
    rows = [("away", "times", "survived", "lost", "doubled", "with a retry")]
    for service in [*SERVICES, "all"]:
        mine = [outcome for outcome in outcomes if service in (outcome.outage.service, "all")]
        counts = (
            len(mine),
            sum(outcome.survived for outcome in mine),
            sum(bool(outcome.lost) for outcome in mine),
            sum(bool(outcome.doubled) for outcome in mine),
            sum(any(len(codes) > 1 for codes in outcome.day.tries.values()) for outcome in mine),
        )
        rows.append((service, *map(str, counts)))
    return columns(rows)


if __name__ == "__main__":
    code = main(say=lambda line: print(line, flush=True))
    sys.stdout.flush()
    os._exit(code)  # skips the interpreter's shutdown, where a library that torch imports prints an error
