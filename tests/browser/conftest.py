from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.browser.lab import Lab, Server, Watch

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A busy machine draws later.
expect.set_options(timeout=20_000)
FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def shots(pytestconfig: pytest.Config) -> Path:
    path = pytestconfig.rootpath / "out" / "screenshots"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def jupyterlab(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("lab"), pytestconfig.rootpath) as server:
        yield server


@pytest.fixture
def server(jupyterlab: Server, request: pytest.FixtureRequest) -> Server:
    """The one server, with a folder of this test's own: no test sees what another has stored."""
    jupyterlab.folder(re.sub(r"\W+", "-", request.node.nodeid))
    return jupyterlab


# Playwright's sync API holds the main thread's loop while it is open, so it does not outlive
# a module: asynchronous tests of other folders may follow in the same session.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert executable, "no Chromium found → apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


# One cache for the tests of a module: JupyterLab's code is fetched and compiled once.
@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.fixture
def lab(context: BrowserContext, server: Server, shots: Path) -> Iterator[Lab]:
    page = context.new_page()
    if rate := os.environ.get("SLOW_PAGE"):  # as many times slower, as on a busy machine
        devtools = context.new_cdp_session(page)
        devtools.send("Emulation.setCPUThrottlingRate", {"rate": float(rate)})
    watch = Watch(page, server.url)
    yield Lab(page, server, watch, shots)
    page.close()
    server.shutdown_kernels()
    watch.assert_clean()
