"""The page needs no other file, stays small, and nothing in the results can get out of its place."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest

from ci.page.document import document
from ci.page.run import judged
from tests.ci.read_pages import HOSTILE, LAYOUTS, Read, everywhere, page
from tests.ci.runs import suite


def test_the_page_loads_nothing() -> None:
    read = page(suite(), suite("pp2", status="known"), suite("ep2", status="fail"))
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form action", "video", "audio"}
    assert read.attributes("src") == []
    assert all(re.match(r"#|https://github\.com/NVIDIA/", address) for address in read.attributes("href"))
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|innerHTML =", "".join(read.inside["style"])
    )
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|eval|innerHTML|insertAdjacentHTML)\b *[(=]", read.inside["script"][1]
    )


def test_the_policy_allows_this_style_and_this_script_and_nothing_else() -> None:
    read = page(suite())
    (policy,) = [at["content"] for _, at in read.elements if at.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in (policy or "").split("; "))
    assert rules["default-src"] == "'none'"
    for kind, content in (("style", read.inside["style"][0]), ("script", read.inside["script"][1])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_in_the_results_becomes_an_element_an_attribute_or_an_address(text: str) -> None:
    harmless, read = page(everywhere("word")), page(everywhere(text), title=text)
    assert [tag for tag, _ in read.elements if tag != "a"] == [tag for tag, _ in harmless.elements if tag != "a"]
    known = {name for _, attributes in harmless.elements for name in attributes}
    assert {name for _, attributes in read.elements for name in attributes} <= known | {"rel"}
    assert all(
        address.startswith(("#", "https://")) and "hacked" not in address.partition("#")[0]
        for address in read.attributes("href")
    )
    assert len(read.inside["script"]) == 2
    # Browsers end a script at more than this parser does.
    assert not set("<>&") & set(read.inside["script"][0])


@pytest.mark.parametrize("text", [text for text in HOSTILE.values() if len(text) < 200])
def test_whatever_the_results_say_reaches_the_script_as_it_is(text: str) -> None:
    data = page(everywhere(text)).data
    assert data["suites"][0]["name"] == text
    assert [title for title, *_ in data["entries"]] == [text, "Loss"]
    assert ["note", text] in data["more"]["0"]["other"]


def test_a_page_of_every_layout_stays_small() -> None:
    suites = [suite(layout) for layout in LAYOUTS]
    assert sum(len(one.checks) for one in suites) > 13_000
    assert len(document(judged(suites), "Plumbline").encode()) < 2_000_000


def test_a_page_stays_below_five_megabytes_when_everything_fails_with_a_long_message() -> None:
    suites = [suite(layout, status="fail") for layout in LAYOUTS]
    long = [
        replace(one, checks=tuple(replace(it, message=it.message + "; wrong" * 300) for it in one.checks)) for one in suites
    ]
    text = document(judged(long), "Plumbline")
    assert len(text.encode()) < 5_000_000
    assert len(Read(text).data["more"]) == sum(len(one.checks) for one in suites)
    assert "… (more in JUnit)" in text
