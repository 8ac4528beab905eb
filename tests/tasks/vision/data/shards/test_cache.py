"""A cache of shards that is closed while other threads use it."""

from __future__ import annotations

import threading
from pathlib import Path

from tasks.vision.data.shards.cache import DOWNLOADS, ShardCache, Stored


def test_it_is_closed_while_another_thread_has_a_shard_fetched() -> None:
    """Closing cancels downloads, which needs the cache's lock; to have one fetched needs the pool's lock within it."""
    ended = threading.Event()

    def fetch(name: str, folder: Path) -> Path:
        ended.wait()
        raise FileNotFoundError(name)

    stored = {f"{number}.npy": Stored(1, "") for number in range(DOWNLOADS + 3)}
    cache = ShardCache(fetch, stored, 2 * len(stored), "gold", "")
    *queued, last = stored
    cache.expect(queued)
    closing = threading.Thread(target=cache.close, daemon=True)

    def use() -> None:
        with cache._changed:
            closing.start()
            closing.join(0.5)  # as far as it gets
            cache._pool.submit(fetch, last, Path())

    using = threading.Thread(target=use, daemon=True)
    using.start()
    for thread in (using, closing):
        thread.join(60)
    stuck = [thread.name for thread in (using, closing) if thread.is_alive()]
    ended.set()
    assert not stuck
