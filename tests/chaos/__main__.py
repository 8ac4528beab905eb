"""Inject faults at every external write of every stage, and check that the retry ends as if nothing had happened.

python -m tests.chaos [--stage train evaluate] [--only TEXT] [--sample 20 --seed 1] [--skip 100] [--jobs 2] [--list]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.text_table import columns

from .kills import Fault, Outcome, Pipeline, sample
from .lab import Lab
from .steps import STEPS, needed

SPEAK_SECONDS = 60.0
STAGES = list(dict.fromkeys(step.stage for step in STEPS))


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 0 when every fault was survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, nargs="+", default=STAGES, help="only these stages' steps")
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose line in --list contains TEXT")
    parser.add_argument("--sample", type=int, metavar="N", help="only N faults, drawn by --seed from all steps in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="without the first N, to continue a run")
    parser.add_argument("--jobs", type=int, default=1, help="faults to try in parallel (%(default)s)")
    parser.add_argument("--list", action="store_true", help="print the faults and try none")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that services and workers end too
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        lab = Lab(Path(name) / "0")
        try:
            pipeline = Pipeline(lab)
            pipeline.run(needed(options.stage), lambda line: print(line, file=sys.stderr, flush=True))
            found = [fault for fault in pipeline.faults(options.stage) if options.only in str(fault)]
            chosen = (found if options.sample is None else sample(found, options.sample, options.seed))[options.skip :]
            if options.list:
                print("\n".join(map(str, chosen)))
                return 0
            outcomes = _try(pipeline, chosen, options.jobs, Path(name))
        finally:
            lab.close()
    print(_table(pipeline, outcomes))
    failed = [outcome for outcome in outcomes if not outcome.survived]
    print(f"{len(outcomes)} faults, {len(outcomes) - len(failed)} survived; {time.monotonic() - began:.0f} s")
    return 1 if failed or len(outcomes) != len(chosen) or not outcomes else 0


def _try(pipeline: Pipeline, chosen: Sequence[Fault], jobs: int, root: Path) -> list[Outcome]:
    """Try every fault; print each one that was not survived at once."""
    outcomes: list[Outcome] = []
    spoken = began = time.monotonic()
    for outcome in _side_by_side(pipeline, chosen, jobs, root):
        outcomes.append(outcome)
        if not outcome.survived:
            print(_told(outcome), flush=True)
        if time.monotonic() - spoken > SPEAK_SECONDS:
            spoken = time.monotonic()
            left = (spoken - began) / len(outcomes) * (len(chosen) - len(outcomes))
            print(f"{len(outcomes)} of {len(chosen)}, {left / 60:.0f} min left", file=sys.stderr, flush=True)
    return outcomes


def _side_by_side(pipeline: Pipeline, chosen: Sequence[Fault], jobs: int, root: Path) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(pipeline.disturb, chosen)
        return
    fork = multiprocessing.get_context("fork")
    place, answers = fork.Value("i", 0), fork.SimpleQueue()

    def work(job: int) -> None:
        lab = pipeline.lab.copy(root / str(job))
        try:
            mine = pipeline.moved(lab)
            while True:
                with place.get_lock():
                    place.value += 1
                    index = place.value - 1
                if index >= len(chosen):
                    return
                answers.put(mine.disturb(chosen[index]))
        finally:
            lab.close()
            answers.put(None)

    workers = [fork.Process(target=work, args=(job,), daemon=True) for job in range(1, jobs + 1)]
    for worker in workers:
        worker.start()
    left = jobs
    while left:
        outcome = answers.get()
        left -= outcome is None
        if outcome is not None:
            yield outcome
    for worker in workers:
        worker.join()


def _told(outcome: Outcome) -> str:
    lines = [f"NOT SURVIVED: {outcome.fault}"]
    for what in ("wrong", "lost", "doubled"):
        found = getattr(outcome, what)
        lines += [f"  {what}: {line}" for line in found[:8]] + (
            [f"  ... {len(found)} in all"] if len(found) > 8 else []
        )
    if outcome.wrong:
        lines += [f"  | {line}" for line in outcome.log.splitlines()[-12:]]
    return "\n".join(lines)


def _table(pipeline: Pipeline, outcomes: Sequence[Outcome]) -> str:
    rows = []
    for step in STEPS:
        mine = [outcome for outcome in outcomes if outcome.fault.step == step.name]
        if mine:
            rows.append(_row(step.name, mine))
    rows.append(_row("all", outcomes))
    return columns([("step", "points", "tried", "survived", "lost", "doubled", "wrong", "leftovers"), *rows])


def _row(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    counts = (
        len({(outcome.fault.step, outcome.fault.point) for outcome in outcomes}),
        len(outcomes),
        sum(outcome.survived for outcome in outcomes),
        sum(bool(outcome.lost) for outcome in outcomes),
        sum(bool(outcome.doubled) for outcome in outcomes),
        sum(bool(outcome.wrong) for outcome in outcomes),
        sum(outcome.leftovers for outcome in outcomes),
    )
    return (name, *map(str, counts))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # skips the interpreter's shutdown, where a library that torch imports prints an error
