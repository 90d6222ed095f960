"""The site as Chromium shows it: no page complains or is too wide, and search finds both languages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ci.read_pages import LONGEST, wait_until


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["a desk in light", "a telephone in dark"])
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of the browser; whatever it complains of, or asks of another site, fails the test."""
    scheme, width = request.param
    context, troubles = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}), []
    opened = context.new_page()
    opened.set_default_timeout(LONGEST * 1000)
    opened.on("request", lambda asked: None if asked.url.startswith(address) else troubles.append(asked.url))
    opened.on("response", lambda answer: troubles.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    yield opened
    context.close()
    assert troubles == []


def test_no_page_complains_or_is_wider_than_the_window(page: Any, site: Path, address: str) -> None:
    """Wide tables and code scroll by themselves."""
    shown = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert "zh/gpus.html" in shown
    wide = []
    for name in shown:
        page.goto(address + name)
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(name)
    assert wide == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("sharding", "Words in failures"),
        ("rel_error", "JUnit files"),
        ("张量并行", "快速上手"),
        ("红", "第一次遇到红色检查"),
        ("已知的上游缺陷", "第一次遇到红色检查"),
    ],
)
def test_search_finds_a_page(page: Any, address: str, words: str, found: str) -> None:
    """Also some Chinese characters out of the middle of a sentence."""
    page.goto(f"{address}search.html?q={words}")
    titles = "[...document.querySelectorAll('#search-results ul.search > li > a')]"  # Sphinx adds one after the other
    wait_until(page, f"found => {titles}.some((one) => one.innerText.startsWith(found))", found)


def test_search_does_not_find_what_no_page_has(page: Any, address: str) -> None:
    page.goto(f"{address}search.html?q=龘龘")
    wait_until(page, "document.querySelector('#search-results p')?.textContent.includes('did not match')")
