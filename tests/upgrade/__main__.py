"""Compare the working tree with an earlier commit: does it compute the same, and work on with what that one left?

python -m tests.upgrade same-results state --base REV [--networks fast_cnn resnet18] [--write FILE]

`same-results` trains every network in both, `state` takes over a `.local/`, `volumes` a stack's volumes (Docker).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import checkout, results, state, volumes
from .checkout import Checkout, CommandError

PARTS = ("same-results", "state", "volumes")
HEADS = {"state": "## A `.local/` that it left", "volumes": "## The volumes of a stack that it left"}
HOW = "CPU, the same interpreter and packages on both sides, OMP_NUM_THREADS=1 and default seeds"


def main(arguments: list[str] | None = None) -> int:
    """Compare; 0 when nothing differs and everything holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--base", required=True, metavar="REV", help="the commit before")
    parser.add_argument("--networks", nargs="+", choices=results.NETWORKS, default=results.NETWORKS)
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page goes here too")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep everything; the base's home is used again")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # services are ended too
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with _folder(given.work) as work, tempfile.TemporaryDirectory(prefix="upgrade-") as sources:
        try:
            before = checkout.of_commit(given.base, Path(sources) / "before")
            today = checkout.of_working_tree(Path(sources) / "today")
            page, well = _page(given.parts, before, today, given.networks, work)
        except CommandError as error:
            print(error, file=sys.stderr)
            return 1
    print(page)
    if given.write:
        given.write.write_text(page)
    return int(not well)


def _page(
    parts: Sequence[str], before: Checkout, today: Checkout, networks: Sequence[str], work: Path
) -> tuple[str, bool]:
    """Do the parts; return the page that says what was found, and whether all is well."""
    command = f"python -m tests.upgrade {' '.join(parts)} --base {before.name[:7]} --write docs/benchmarks/releases.md"
    sections = [
        "# Beside the release before",
        f"Written by `{command}`: the release before is {before.title}, today is {today.title}.",
    ]
    well = True
    for part in parts:
        if part == "same-results":
            pairs = list(results.compare(before, today, networks, work, _say()))
            well &= all(pair.equal for pair in pairs)
            sections += ["## The same results", _how(pairs), results.table(pairs)]
        else:
            check = state.check_folder if part == "state" else volumes.check_volumes
            found = list(_told(check(before, today, work)))
            well &= all(one.holds for one in found)
            sections += [HEADS[part], _table(found)]
    return "\n\n".join(sections) + "\n", well


def _how(pairs: Sequence[results.Pair]) -> str:
    threads = sorted({result.threads for pair in pairs for result in (pair.before, pair.today)})
    return (
        f"`prepare` and `train` ({results.EPOCHS} epochs) in both commits, on {HOW}. Training chose its threads "
        f"itself ({' or '.join(threads)}). The image folder is made from a fixed seed: three classes of 40 PNG and "
        "JPEG files. Equal means to the last digit."
    )


def _table(found: Sequence[state.Check]) -> str:
    rows = [f"| {one.what} | {one.found} | {'yes' if one.holds else 'NO'} |" for one in found]
    return "\n".join(["| check | found | holds |", "|---|---|---|", *rows])


def _told(found: Iterable[state.Check]) -> Iterator[state.Check]:
    say = _say()
    for one in found:
        say(f"{'ok   ' if one.holds else 'WRONG'} {one.what}: {one.found}")
        yield one


def _say() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda line: print(f"{time.monotonic() - began:5.0f} s  {line}", file=sys.stderr, flush=True)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="upgrade-") as name:
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main())
