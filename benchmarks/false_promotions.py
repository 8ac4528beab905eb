"""How often does the gate promote a model that is no better? Simulated: `make bench-gate`.

Two equal models answer the same test images, each correctly with the same probability; the gate compares one with the
other as it does every day. With `rate_holds_for="gate"` the policy's rate holds for each gate alone; with `"champion"`,
the default, for all gates that one champion meets together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.contract.gate_policy import GatePolicy
from tasks.gate.decision import decide
from tasks.gate.evidence import Champion, Cost, Evidence, Loading, Scores, Slice
from tasks.vision.evaluation.comparison import compare

COST = Cost(p50_ms=1, p95_ms=1, memory_mb=1, size_mb=1)


def promoted(candidate: NDArray[np.bool_], champion: NDArray[np.bool_], policy: GatePolicy, look: int) -> bool:
    """Have the gate decide on two lists of correct answers; every check but the comparison passes."""
    accuracy = float(candidate.mean())
    scores = Scores(accuracy=accuracy, macro_f1=accuracy, calibration_error=0)
    return decide(
        Evidence(
            loading=Loading(works=True, note="simulated"),
            scores=scores,
            cost=COST,
            slices=(Slice(column="class", value="all", images=len(candidate), accuracy=accuracy),),
            champion=Champion(
                version=1,
                scores=scores,
                cost=COST,
                comparison=compare(candidate, champion, policy.level(look), look),
            ),
        ),
        policy,
    ).promote


def pair(
    rng: np.random.Generator, images: int, champion: float, candidate: float, both: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Draw answers of two models to the same images: `both` is the share that both answer correctly."""
    draw = rng.random(images)
    right_champion = draw < champion
    right_candidate = (draw < both) | ((draw >= champion) & (draw < champion + candidate - both))
    return right_candidate, right_champion


def gates(policy: GatePolicy, count: int, looks: int, images: int, gain: float, seed: int) -> float:
    """Share of `count` champions that one of `looks` candidates replaced, each `gain` better on average."""
    rng = np.random.default_rng(seed)
    replaced = 0
    for _ in range(count):
        for look in range(1, looks + 1):
            candidate, champion = pair(rng, images, 0.90, 0.90 + gain, 0.87)
            if promoted(candidate, champion, policy, look):
                replaced += 1
                break
    return replaced / count


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=1000)
    parser.add_argument("--days", type=int, default=30, help="candidates that one champion meets")
    parser.add_argument("--images", type=int, default=2000, help="test images")
    options = parser.parse_args(arguments)
    each = GatePolicy(rate_holds_for="gate")
    reign = GatePolicy()
    print("models                    rate holds for   candidates   promoted   policy's rate")
    for name, gain in (("equal", 0.0), ("1 % worse", -0.01), ("1 % better", 0.01), ("2 % better", 0.02)):
        for policy, looks in ((each, 1), (each, options.days), (reign, options.days)):
            share = gates(policy, options.gates, looks, options.images, gain, seed=looks)
            rate = policy.false_promotion_rate if gain <= 0 else None
            limit = f"{rate:.3f}" if rate is not None else "-"
            print(f"{name:<25} {policy.rate_holds_for:<16} {looks:>10} {share:>10.3f}   {limit}", flush=True)


if __name__ == "__main__":
    main()
