"""Lists and removes what runs left behind and nothing needs any longer: `python -m tasks gc`, `make gc`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from tasks.retention import leftovers, searches
from tasks.retention.leftovers import Kind, Leftover, Store
from tasks.settings import Settings, load_settings
from tasks.text_table import columns

HEADER = ("what", "of", "run ID", "idle since (UTC)", "MB")


def find(settings: Settings, before: datetime, store: Store) -> list[Leftover]:
    """List all leftovers of DAG runs that were last active before `before`; nothing is changed."""
    return [*leftovers.find(settings, before, store), *searches.find(settings, before, store)]


def remove(leftover: Leftover, settings: Settings) -> None:
    """Remove one leftover."""
    if leftover.kind is Kind.SEARCH:
        searches.remove(leftover, settings)
    else:
        leftovers.remove(leftover)


def show(found: Iterable[Leftover]) -> str:
    """Lay leftovers out as a table."""
    rows = [
        (
            str(item.kind) + (f", {item.weights.why}" if item.weights else ""),
            *(item.of, item.run_id),
            f"{item.since:%Y-%m-%d %H:%M}" if item.since else "-",
            "-" if item.size is None else f"{item.size / 1e6:.1f}",
        )
        for item in found
    ]
    return columns([HEADER, *rows])


def collect(days: float, apply: bool) -> None:
    """Print the leftovers of DAG runs that have been idle for `days`; with `apply` remove them."""
    settings = load_settings().with_the_stacks_ray()
    before = datetime.now(UTC) - timedelta(days=days)
    store = Store.read(settings, before)
    found = find(settings, before, store)
    if not found:
        print(f"MLflow: nothing is left over from DAG runs that have been idle for {days:g} days")
        return
    print(show(found))
    if not apply:
        print(f"\n{len(found)} would be removed; APPLY=1 removes them")
        return
    kept = []
    for item in found:
        if leftovers.used_again(item, store, before):
            kept.append(item)
        else:
            remove(item, settings)
    print(f"\n{len(found) - len(kept)} removed" + "".join(f"; {item.kind} of {item.of} is used again" for item in kept))
