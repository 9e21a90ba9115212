"""A real headless Chromium for the tests of pages, and a watch over what a page asks for and complains of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

INSTALL = "Chromium is not installed: `apt-get install chromium` and `make test-browser` run these tests"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """Return Playwright's handle of a running Chromium; while it is there, nothing else may run an event loop."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page, the errors in its console, and the addresses that it asked for."""

    def __init__(self, page: object) -> None:
        self.page, self.errors, self.requests = page, [], []
        page.on("console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def watched(chromium: object) -> Iterator[Watched]:
    """Return a fresh page under watch."""
    context = chromium.new_context()
    yield Watched(context.new_page())
    context.close()
