"""No barrier on the page, as far as axe-core knows them: light and dark, on a telephone and on a desk, red and green."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.page.history import History, Point
from ci.page.run import Run, judged
from tests.ci.read_pages import planted
from tests.ci.runs import check, suite
from tests.workflows.conftest import IN_CI

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
NEEDED = "axe-core is needed: npm ci --prefix tests/ci --ignore-scripts"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def axe() -> str:
    """The script, or no test."""
    if not AXE.exists():
        (pytest.fail if IN_CI else pytest.skip)(NEEDED)
    return AXE.read_text(encoding="utf-8")


def past(*suites: Any) -> Run:
    """The run of these suites, after two others."""
    kinds = [("MLA", "fp64"), ("Output", "fp64")]
    points = (Point(f"2026-01-0{day}T02:17", dict.fromkeys(kinds, day * 1e-06)) for day in (1, 2, 3))
    return replace(judged(suites, ["a.xml: not JUnit XML"] if len(suites) > 3 else []), history=History(tuple(points)))


def red() -> Run:
    """Something of every kind."""
    layers = tuple(check(f"Layer {layer} Value", "fail" if layer > 1 else "pass") for layer in range(4))
    more = (check("Loss", "known", "output"), check("Logits", "error", "output"), check("Layer 0 Query Latent", "unevaluated"))
    command = "python -m validation run --layouts tp2"
    first = check("Layer 0 Attention Output", "fail", reproduce=command)
    return past(
        suite("tp2", (*layers, first, *more)),
        suite("tp2pp2", (*layers, first)),
        suite("single", (check("Layer 0 Value"), check("Layer 1 Value"))),
        planted("rope", "router bias"),
    )


def green() -> Run:
    """A whole case, and its self-test."""
    return past(suite("tp2"), planted("rope"))


def barriers(page: Any, axe: str) -> list[str]:
    """What axe-core says is wrong, with the first element of each."""
    page.evaluate(f"() => {{ {axe} }}")
    found = page.evaluate("async () => (await window.axe.run(document, { resultTypes: ['violations'] })).violations")
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]} ({len(one['nodes'])})" for one in found]


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("run", [red, green], ids=["red", "green"])
def test_axe_finds_no_barrier(show: Open, axe: str, run: Callable[[], Run], theme: str, width: int) -> None:
    options = {"color_scheme": theme, "viewport": {"width": width, "height": 900}, "reduced_motion": "reduce"}
    page = show(run=run(), bypass_csp=True, **options)
    assert barriers(page, axe) == []
    for details in page.locator("main details:not([open]) > summary").all():
        if details.is_visible():
            details.click()
    assert barriers(page, axe) == [], "with everything unfolded"
    page.locator("#list tbody .link").first.click()
    assert barriers(page, axe) == [], "with the numbers of a check"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_axe_sees_a_barrier(show: Open, axe: str) -> None:
    page = show(run=green(), bypass_csp=True)
    page.evaluate("document.querySelector('#words').closest('label').replaceWith(document.querySelector('#words'))")
    page.evaluate("document.querySelector('#words').removeAttribute('placeholder')")
    assert any(one.startswith("label: ") for one in barriers(page, axe))


def test_the_lock_file_of_axe_names_no_registry() -> None:
    """Where packages come from is npm's own configuration."""
    packages = json.loads((Path(__file__).parent / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in packages.items() if name)
