"""Injects every fault at every point of every step; compares the state after the retry with the undisturbed one."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.runner import faults

from . import state
from .forks import in_child
from .lab import Ended, Lab
from .state import State
from .steps import STEPS, Step

GRACE = 3.0  # seconds from SIGTERM to the end; then `pipeline.local` sends SIGKILL
TRIES = 3  # as in `dags/`: one, and two retries
ACTS = [(when, action) for action in ("SIGKILL", "SIGTERM", "away") for when in ("before", "after")]
SIGNALS = [act for act in ACTS if act[1] != "away"]
CUT_SHORT = [("during", "SIGKILL")]
TORN = [("during", "SIGKILL"), ("during", "full"), ("during", "damaged")]
SERVICE = {"start", "stop", "refresh"}
# A full store ends no prepare while it stores what a retry would have use for: 0.
EXPECTED = {
    "SIGKILL": {-signal.SIGKILL},
    "SIGTERM": {143},
    "away": {69},
    "full": {0, 1, 69},
    "damaged": {-signal.SIGKILL},
}


@dataclass(frozen=True)
class Fault:
    """One fault at one point of one step."""

    step: str
    point: str
    when: str
    action: str

    def __str__(self) -> str:
        """As the command line names it."""
        return f"{self.step} {self.point} {self.when} {self.action}"


@dataclass(frozen=True)
class Outcome:
    """The result of a fault: what was lost, doubled or otherwise wrong; all empty when it was survived."""

    fault: Fault
    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    leftovers: int = 0
    log: str = field(default="", repr=False)

    @property
    def survived(self) -> bool:
        """Whether the state after the retry is that of the undisturbed run."""
        return not (self.lost or self.doubled or self.wrong)


class Pipeline:
    """The undisturbed run and the state after each of its steps; then the faults."""

    def __init__(self, lab: Lab) -> None:
        """Nothing is run yet."""
        self.lab = lab
        self.results: dict[str, dict[str, Any]] = {}
        self.ends: dict[str, State] = {}
        self.points: dict[str, list[str]] = {}

    def run(self, steps: Sequence[Step], say: Callable[[str], None]) -> None:
        """Run each step once, undisturbed, and record its points and the state after it."""
        lab = self.lab
        in_child(_migrate)
        (lab.home / "artifacts").mkdir(exist_ok=True)
        lab.save("empty")
        record = lab.home.parent / "points"
        for step in steps:
            record.unlink(missing_ok=True)
            self._begin(step)
            ended = lab.run(step, self.results, {"record": str(record)})
            if ended.code != step.exit_code:
                raise RuntimeError(f"{step.name} ended with {ended.code} undisturbed:\n{ended.log[-3000:]}")
            self.results[step.name] = ended.result or {}
            self.points[step.name] = record.read_text().splitlines()
            self.ends[step.name] = self._state(step, ended)
            lab.save(step.name)
            say(f"{step.name:25} {len(self.points[step.name]):3} points, {ended.seconds:5.1f} s")

    def moved(self, lab: Lab) -> Pipeline:
        """The same, in another lab that holds the same snapshots."""
        other = Pipeline(lab)
        other.results, other.ends, other.points = self.results, self.ends, self.points
        return other

    def faults(self, stages: Collection[str]) -> list[Fault]:
        """All faults to try on these stages."""
        found = []
        for step in [step for step in STEPS if step.stage in stages]:
            points = self.points[step.name]
            last = max((point for point in points if _function(point) == step.varies), key=points.index, default="")
            for point in points:
                name = _function(point)
                if point == last or not (step.only is None or {name, point.partition("/")[2]} & {*step.only}):
                    continue
                acts = ACTS + TORN if name in faults.ARTIFACTS else ACTS
                if name in faults.REMOVALS:
                    acts = ACTS + CUT_SHORT
                elif name == "write_result":
                    acts = [*SIGNALS, ("before", "full")]
                elif name in SERVICE:
                    acts = SIGNALS
                found += [Fault(step.name, point, when, action) for when, action in acts]
        return found

    def disturb(self, fault: Fault) -> Outcome:
        """Inject one fault, retry as Airflow would, and compare the state afterwards."""
        step = next(step for step in STEPS if step.name == fault.step)
        lab = self.lab
        self._begin(step)
        asked = {"point": fault.point, "when": fault.when, "action": fault.action, "marker": str(lab.marker)}
        first = lab.run(step, self.results, asked)
        wrong = self._wrong(step, fault, first)
        logs, ended = [first.log], first
        for _ in range(TRIES - 1):
            if ended.code == step.exit_code:
                break
            ended = lab.run(step, self.results, asked)
            logs.append(ended.log)
        if ended.code != step.exit_code:
            wrong.append(f"the retry ended with {ended.code}, undisturbed with {step.exit_code}")
        lost, doubled, leftovers = compare(self.ends[step.name], self._state(step, ended))
        log = "\n--- retry\n".join(logs)
        return Outcome(fault, tuple(lost), tuple(doubled), tuple(wrong), leftovers, log)

    def undisturbed(self, step: Step) -> Outcome:
        """Repeat a step without a fault: what differs then is not masked and should be."""
        self._begin(step)
        ended = self.lab.run(step, self.results)
        lost, doubled, leftovers = compare(self.ends[step.name], self._state(step, ended))
        return Outcome(
            Fault(step.name, "nowhere", "never", "none"), tuple(lost), tuple(doubled), (), leftovers, ended.log
        )

    def _begin(self, step: Step) -> None:
        """Reset the store and the service to where the step begins."""
        lab = self.lab
        if step.service is not None:
            # The service loads the version that `champion` names, so first restore a state in which it names this one.
            served = next(name for name, end in self.ends.items() if _champion(end) == str(step.service))
            lab.restore(served)
            lab.serve(step.service)
        elif step.stage == "deploy":
            lab.serve(None)
        lab.restore(step.after)
        if step.never_ended:
            lab.unend(self.results[step.never_ended]["run_id"])

    def _state(self, step: Step, ended: Ended) -> State:
        service = self.lab.service() if step.stage == "deploy" and not step.elsewhere else None
        return in_child(lambda: state.read(service, self.lab.anywhere)) | state.of_result(ended.result or {})

    def _wrong(self, step: Step, fault: Fault, first: Ended) -> list[str]:
        """What is wrong right after the fault."""
        if not self.lab.marker.exists():
            return [f"the point was not reached; the try ended with {first.code}"]
        wrong = []
        if first.code not in EXPECTED[fault.action]:
            wrong.append(f"the try ended with {first.code}, not {sorted(EXPECTED[fault.action])}")
        if fault.action == "SIGTERM":
            took = time.time() - self.lab.marker.stat().st_mtime
            if took > GRACE:
                wrong.append(f"the try ended {took:.1f} s after SIGTERM, later than {GRACE} s")
            # FAILED where the stage had failed before the signal came.
            ended = ("KILLED", "FINISHED") if step.exit_code == 0 else ("KILLED", "FINISHED", "FAILED")
            running = in_child(lambda: state.unfinished(*ended))
            wrong += [f"after SIGTERM {run}" for run in running]
        return wrong


def sample(faults: Sequence[Fault], count: int, seed: int) -> list[Fault]:
    """Draw a random sample, spread over the steps: one of each step in turn."""
    chance = random.Random(seed)  # noqa: S311  # a choice, not a secret
    by_step: dict[str, list[Fault]] = {}
    for fault in faults:
        by_step.setdefault(fault.step, []).append(fault)
    for found in by_step.values():
        chance.shuffle(found)
    chosen: list[Fault] = []
    while len(chosen) < min(count, len(faults)):
        for found in by_step.values():
            if found and len(chosen) < count:
                chosen.append(found.pop())
    order = {fault: place for place, fault in enumerate(faults)}
    return sorted(chosen, key=order.__getitem__)


def compare(expected: State, found: State) -> tuple[list[str], list[str], int]:
    """Return what is missing or different, what is doubled, and how many unused logged models are left over."""
    leftover = {key.partition(" | ")[0] for key, value in found.items() if key not in expected and _unused(key, value)}
    extra = [key for key in found if key not in expected and not state.AGAIN.match(key)]
    doubled = [key for key in extra if key.partition(" | ")[0] not in leftover]
    lost = [
        f"{key}: {_short(value)} is now {_short(found.get(key, 'missing'))}"
        for key, value in expected.items()
        if found.get(key) != value
    ]
    return lost, doubled, len(leftover)


def _function(point: str) -> str:
    return point.partition("/")[2].partition("#")[0]


def _unused(key: str, value: str) -> bool:
    return bool(re.match(r"model of .*\| status", key)) and "PENDING" in value


def _champion(end: Mapping[str, str]) -> str | None:
    return next((value for key, value in end.items() if key.startswith("alias ") and key.endswith("@champion")), None)


def _short(value: str) -> str:
    return value if len(value) <= 160 else f"{value[:80]} ... {value[-60:]}"


def _migrate() -> None:
    from tasks.records.tracking import connect
    from tasks.settings import load_settings

    connect(load_settings())
