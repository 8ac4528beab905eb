from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.plugins.socket_proxy.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with TemporaryDirectory() as folder:  # short: the path of a socket has at most 107 bytes
        made = Lab(Path(folder))
        yield made
        made.close()
