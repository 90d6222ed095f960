"""A browser that shows pages. No network: a request is a failure.

Chromium or Chrome is taken from the machine (GitHub's runners have one; on Debian `apt-get install chromium`). Without one
tests in it are skipped and say so, unless PLUMBLINE_BROWSER names one: then it must be there.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.junit import Suite
from ci.page.document import document
from ci.page.run import Run, judged
from tests.ci.read_pages import LONGEST

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's Chromium."""
    named = os.environ.get("PLUMBLINE_BROWSER")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no {', '.join(NAMES[:3])} on this machine, and PLUMBLINE_BROWSER names none")
    if not named:
        pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements/tests.txt)")
    with importlib.import_module("playwright.sync_api").sync_playwright() as playwright:
        # Chromium's own sandbox refuses root, which containers run as.
        alone = ["--no-sandbox"] if os.getuid() == 0 else []
        started = playwright.chromium.launch(executable_path=found, args=alone, timeout=LONGEST * 1000)
        yield started
        started.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end none may have asked for anything or complained."""
    contexts, troubles = [], []

    def opened(*suites: Suite, run: Run | None = None, link: str = "", **options: Any) -> Any:
        path = tmp_path / "report.html"
        path.write_text(document(run or judged(suites), "Plumbline"), encoding="utf-8")
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(LONGEST * 1000)
        page.on("request", lambda request: None if request.url.startswith(path.as_uri()) else troubles.append(request.url))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.goto(f"{path.as_uri()}{link}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []
