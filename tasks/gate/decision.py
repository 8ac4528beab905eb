"""Evidence and policy in, verdict out: the ordered checks of the gate."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.contract.gate_policy import CLASS, GatePolicy
from tasks.gate.evidence import Champion, Comparison, Compression, Cost, Evidence, Slice
from tasks.gate.verdict import Check, Verdict


def decide(evidence: Evidence, policy: GatePolicy) -> Verdict:
    """Judge a candidate by everything that was measured; what was not measured counts against it.

    Without a champion: that it loads, floors and budgets. With one: the paired comparison and its cost too. Weights
    that the champion already has are not compared. A compressed model must be no worse than the model that it was made
    from, and pay; if that is the champion, nothing more is asked of its accuracy.
    """
    champion = evidence.champion
    checks = [_loads(evidence), *_floors(evidence, policy), *_slices(evidence, policy)]
    if evidence.compression is not None:
        checks += _compression(evidence.compression, evidence.cost, policy)
    if champion is not None and not champion.same and not evidence.made_from_champion:
        checks += _comparison(champion, policy)
    checks += _costs(evidence, policy)
    if evidence.rolled_back is not None:
        checks.append(_row("not rolled back", None, None, False, f"these weights were {evidence.rolled_back}"))
    same = champion is not None and champion.same
    return Verdict(
        promote=all(check.passed for check in checks) and not same,
        champion_version=champion.version if champion else None,
        is_champion=same,
        checks=tuple(checks),
    )


def _loads(evidence: Evidence) -> Check:
    if evidence.loading is None:
        return _missing("loads", "the model was not loaded as the service loads it")
    return _row("loads", None, None, evidence.loading.works, evidence.loading.note)


def _floors(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    scores = evidence.scores
    if scores is None:
        yield _missing("accuracy", "the test images were not scored")
        return
    yield _at_least("accuracy", "test accuracy", scores.accuracy, policy.min_accuracy, "the floor")
    yield _at_least("macro F1", "macro F1", scores.macro_f1, policy.min_macro_f1, "the floor")
    error, limit = scores.calibration_error, policy.max_calibration_error
    yield _at_most("calibration error", "expected calibration error", error, limit, "the limit")


def _slices(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    """One row per column, for its worst value; a value without a test image, or a column that is not there, fails."""
    columns: dict[str, list[Slice]] = {CLASS: []}
    for name in policy.required_columns:
        columns[name] = []
    for part in evidence.slices:
        columns.setdefault(part.column, []).append(part)
    for column, parts in columns.items():
        name, what = ("class recall", "recall") if column == CLASS else (f"slices by {column}", "accuracy")
        limit = policy.min_class_recall if column == CLASS else policy.min_slice_accuracy
        empty = [part.value for part in parts if part.accuracy is None]
        known = [(part.accuracy, part.value) for part in parts if part.accuracy is not None]
        if empty:
            yield _missing(name, f"no test image has {column} {', '.join(empty[:5])}", limit)
        elif not known:
            yield _missing(name, f"the data set has no column {column!r}, or one of too many values", limit)
        else:
            worst, value = min(known)
            yield _at_least(name, f"{what} of the worst {column}, {value!r},", worst, limit, "the floor")


def _comparison(champion: Champion, policy: GatePolicy) -> Iterator[Check]:
    name, found = f"champion version {champion.version}", champion.comparison
    if found is None:
        yield _missing("gain", f"not compared with {name}")
        return
    if policy.proof == "better":
        yield _at_least("gain", "gain in accuracy", found.gap, policy.min_gain, f"required over {name}")
        yield _row("proof of a gain", found.p_value, found.level, _proven(found), _proof(found, name))
    yield _not_worse("not worse", found, policy, "the margin")


def _not_worse(name: str, found: Comparison, policy: GatePolicy, against: str) -> Check:
    interval = f"lower end of the gap's interval ({found.low:+.4f} to {found.high:+.4f})"
    return _at_least(name, interval, found.low, -policy.non_inferiority_margin, against)


def _compression(compression: Compression, cost: Cost | None, policy: GatePolicy) -> Iterator[Check]:
    """A compressed model must be no worse than before, and faster or smaller, as the policy asks."""
    name, found, before = "not worse than before", compression.comparison, compression.cost
    if found is None:
        yield _missing(name, f"not compared with {compression.name} before its compression")
    else:
        yield _not_worse(name, found, policy, f"the margin, against {compression.name} before its compression")
    name, required = "compression pays", policy.min_compression_gain
    if cost is None or before is None:
        yield _missing(name, "latency and size were not measured before and after the compression", required)
        return
    faster = policy.compression_gain == "latency"
    was, now = (before.p50_ms, cost.p50_ms) if faster else (before.size_mb, cost.size_mb)
    what, unit, word = ("median of one answer", "ms", "as fast") if faster else ("size", "MB", "as small")
    gain = was / now if now else 0.0
    relation = "at least" if gain >= required else "not"
    why = (
        f"{what} {was:.3g} {unit} before its compression, {now:.3g} {unit} now: {gain:.2f} times {word}, "
        f"{relation} the required {required:g}"
    )
    yield _row(name, gain, required, gain >= required, why)


def _proven(found: Comparison) -> bool:
    return found.gained > found.lost and found.p_value <= found.level


def _proof(found: Comparison, champion: str) -> str:
    counts = f"{found.gained} images gained, {found.lost} lost against {champion}"
    chance = f"chance of that from an equal model {found.p_value:.2g}"
    relation = "within" if _proven(found) else "not within"
    return f"{counts}: {chance}, {relation} the {found.level:.2g} allowed for candidate {found.look} of this champion"


def _costs(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    cost, champion = evidence.cost, evidence.champion
    if cost is None:
        yield _missing("cost", "latency, memory and size were not measured")
        return
    compared = champion is not None and not champion.same
    theirs = champion.cost if champion is not None and compared else None
    if compared and theirs is None:
        yield _missing("cost", "the champion's latency, memory and size were not measured")
    budgets = [
        ("latency p95", "95th percentile in ms,", cost.p95_ms, policy.max_latency_ms),
        ("memory", "peak memory in MB,", cost.memory_mb, policy.max_memory_mb),
        ("size", "size in MB,", cost.size_mb, policy.max_model_mb),
    ]
    for name, what, measured, budget in budgets:
        if budget is not None:
            yield _at_most(f"{name} budget", what, measured, budget, "the budget")
    if champion is None or theirs is None:
        return
    whose = f"champion version {champion.version}"
    # Like with like: a model as it was trained can be compressed too, once it is champion.
    if evidence.compression is None and champion.uncompressed_cost is not None:
        theirs, whose = champion.uncompressed_cost, f"{whose} before its compression"
    factors = [
        ("latency p50", "median in ms,", cost.p50_ms, theirs.p50_ms, policy.max_slowdown),
        ("latency p95", "95th percentile in ms,", cost.p95_ms, theirs.p95_ms, policy.max_slowdown),
        ("memory", "peak memory in MB,", cost.memory_mb, theirs.memory_mb, policy.max_memory_growth),
        ("size", "size in MB,", cost.size_mb, theirs.size_mb, policy.max_growth),
    ]
    for name, what, measured, reference, factor in factors:
        against = f"{factor:g} times {whose}"
        yield _at_most(name, what, measured, factor * reference, against)


def _at_least(name: str, what: str, measured: float, limit: float, against: str) -> Check:
    passed = measured >= limit
    relation = "is at least" if passed else "is under"
    return _row(name, measured, limit, passed, f"{what} {measured:.4f} {relation} {limit:.4f}, {against}")


def _at_most(name: str, what: str, measured: float, limit: float, against: str) -> Check:
    passed = measured <= limit
    relation = "is at most" if passed else "is over"
    return _row(name, measured, limit, passed, f"{what} {measured:.4g} {relation} {limit:.4g}, {against}")


def _missing(name: str, why: str, limit: float | None = None) -> Check:
    return _row(name, None, limit, False, f"no evidence: {why}")


def _row(name: str, measured: float | None, limit: float | None, passed: bool, why: str) -> Check:
    return Check(name=name, measured=measured, limit=limit, passed=passed, why=why)
