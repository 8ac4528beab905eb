"""The Chromium of the machine, for the tests that look at a page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Of whatever a page is asked to do or is expected to show: playwright's own are 30 s and 5 s, and on a machine that is
# busy with other tests a single click took more than 10 s.
MILLISECONDS = 600_000
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start it; without one the test is skipped, or fails with REQUIRE_DOCKER=1, where everything has to run."""
    if CHROMIUM is None:
        reason = "no Chromium on this machine; apt-get install chromium"
        if os.environ.get("REQUIRE_DOCKER") == "1":
            pytest.fail(f"REQUIRE_DOCKER=1, but {reason}")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        # The one default of all tests; playwright has none for a browser, only for each of its windows.
        expect.set_options(timeout=MILLISECONDS)
        yield started
        started.close()


@contextlib.contextmanager
def window(browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """Open a window of its own, with its own cookies, whose every action may take `MILLISECONDS`."""
    context = browser.new_context(**options)
    context.set_default_timeout(MILLISECONDS)
    yield context
    context.close()
