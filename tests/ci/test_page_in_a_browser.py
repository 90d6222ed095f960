"""The page as Chromium shows it (conftest.py): read, clicked, and gone through with the keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import ci.page.document
from ci.junit import Suite
from ci.page import numbered
from ci.page.history import History, Point
from ci.page.run import judged
from ci.page.text import anchor
from tests.ci.read_pages import HOSTILE, LAYOUTS, everywhere, wait_until
from tests.ci.runs import check, suite

Open = Callable[..., Any]
"""Suites and options of the browser's context -> a page that shows them."""


AGAIN = re.compile(r'cd "\$\(mktemp -d\)"\n.*\npython -m validation run --layouts pp2 -- -k attention', re.DOTALL)
"""What reproduces the failure of `failing`, from nothing."""


def failing() -> tuple[Suite, Suite]:
    """A sound case, and one in which something of every kind went wrong."""
    checks = (
        check("Layer 0 Attention Output"),
        check("Layer 0 Value"),
        check("Layer 1 Attention Output", "fail", reproduce="python -m validation run --layouts pp2 -- -k attention"),
        check("Layer 1 Value", "known"),
        check("Layer 2 Value", "error"),
        check("Layer 2 Attention Output Gradient", component="probe_gradients"),
    )
    return suite("tp2"), suite("pp2", checks)


def close(page: Any) -> None:
    """Close the sheet; the next key is the page's."""
    page.keyboard.press("Escape")
    wait_until(page, "() => document.querySelector('dialog[open]') === null")


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"))


def rows(page: Any) -> list[str]:
    """The titles of the checks that the table has in sight."""
    found = page.locator("#list tbody tr[data-check]").all()
    return [row.locator(".link").text_content() for row in found]


def test_the_map_opens_on_the_layout_that_fails_and_its_cells_say_so_without_colour(show: Open) -> None:
    page = show(*failing())
    assert page.locator("#map-layout option:checked").text_content() == "pp2"
    assert page.locator("#map-views input:checked + span").text_content() == "Forward"
    told = {cell.get_attribute("aria-label"): cell.text_content() for cell in page.locator("#grid td.cell").all()}
    assert told == {
        "Layer 0 Value in pp2: pass, 6e-6 × limit, max diff 1.78e-15": "6e-6",
        "Layer 1 Value in pp2: known upstream bug, 7e9 × limit, max diff 2.185": "◆7e9",
        "Layer 2 Value in pp2: not decided, max diff 2.185": "?",
        "Layer 0 Attention Output in pp2: pass, 6e-6 × limit, max diff 1.78e-15": "6e-6",
        "Layer 1 Attention Output in pp2: fail, 7e9 × limit, max diff 2.185": "✗7e9",
    }
    heads = page.locator("#grid thead th").all_text_contents()
    assert heads == ["Forward", "Layer 0", "Layer 1", "Layer 2"]
    assert page.locator("#grid tbody th").all_text_contents() == ["Value", "Attention Output"]


def test_of_all_layouts_a_cell_shows_the_worst(show: Open) -> None:
    title = "Layer 0 Value"
    known, failed = check(title, "known"), check(title, "fail", rel_error="3e-10")
    page = show(suite("tp2", (known,)), suite("pp2", (failed,)), suite("single", (check(title),)))
    page.select_option("#map-layout", label="All, the worst of each")
    assert page.locator("#grid td.cell").get_attribute("aria-label") == "Layer 0 Value in pp2: fail, 3 × limit, max diff 2.185"


def test_gradients_parameters_and_steps_are_a_switch_away(show: Open) -> None:
    page = show(suite("tp2"))
    assert page.locator("#map-views span").all_text_contents() == [
        "Forward",
        "Probe gradients",
        "Parameter gradients",
        "Weights",
        "Step 1",
        "Step 2",
    ]
    page.get_by_label("Parameter gradients").check(force=True)
    assert "KV Down Projection Weight" in page.locator("#grid tbody th").all_text_contents()
    page.locator("#grid td.cell").first.click()
    assert page.locator("#sheet-title").text_content() == "Embedding Weight Gradient"


def test_the_keyboard_goes_through_the_map_to_the_numbers_and_back(show: Open) -> None:
    page = show(*failing())
    page.locator("#map-views input:checked").focus()
    page.keyboard.press("Tab")
    assert focused(page).startswith("Layer 0 Value")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("Layer 1 Attention Output")
    assert "0.6958" in page.locator("#readout").text_content()
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("Layer 1 Attention Output"), "the map ends here"
    page.keyboard.press("Enter")
    assert page.locator("dialog[open] #sheet-title").text_content() == "Layer 1 Attention Output"
    close(page)
    assert focused(page).startswith("Layer 1 Attention Output")
    page.keyboard.press("Home")
    assert focused(page).startswith("Layer 0 Attention Output")


def test_a_cell_opens_every_number_the_message_and_the_command(show: Open) -> None:
    page = show(*failing())
    page.locator("#grid td.fail").click()
    said = page.locator("#sheet-body").inner_text()
    for words in ("2.185", "2.24e-16", "0.6958", "1e-10", "[2, 11, 15] on rank 0", "0,1", "12,288", "rank 0 [0:4, 0:24, 0:64]"):
        assert words in said
    assert "relative error 6.96e-01 > 1e-10" in said
    assert AGAIN.fullmatch(page.locator("#sheet .command code").text_content())
    assert page.evaluate("location.hash") == "#tiny-pp2-fp64-local-gloo/Layer%201%20Attention%20Output"


def test_the_command_is_copied(show: Open) -> None:
    page = show(*failing(), permissions=["clipboard-read", "clipboard-write"])
    page.evaluate("() => { window.setTimeout = () => 0; }")  # a busy machine may not look before the word is gone again
    page.locator("#grid td.fail").click()
    page.locator("#sheet .copy").click()
    page.locator("#sheet .copy", has_text="Copied").wait_for()
    assert AGAIN.fullmatch(page.evaluate("navigator.clipboard.readText()"))


def test_a_link_opens_its_check(show: Open) -> None:
    page = show(*failing(), link=f"#{anchor(failing()[1].name, 'Layer 2 Attention Output Gradient')}")
    assert page.locator("dialog[open] #sheet-title").text_content() == "Layer 2 Attention Output Gradient"
    close(page)
    assert page.locator("#map-views input:checked + span").text_content() == "Probe gradients"
    wait_until(page, "() => location.hash === ''")
    assert show(*failing(), link="#nothing/of the kind%").locator("dialog[open]").count() == 0


def test_a_layout_leads_to_its_map_and_a_check_to_the_same_in_every_layout(show: Open) -> None:
    page = show(suite("tp2"), suite("pp2"))
    assert page.locator("#map-layout option:checked").text_content() == "All, the worst of each"
    page.locator("#layouts tr", has_text="pp2").locator("td", has_text="6e-6").last.click()
    assert page.locator("#map-layout option:checked").text_content() == "pp2"
    assert page.locator("#map-views input:checked + span").text_content() == "Step 1"
    page.keyboard.press("Enter")
    page.locator("#sheet .chips button", has_text="tp2").click()
    assert page.locator("#sheet-body .quiet").first.text_content() == "tp2, Steps"


def test_of_a_red_run_the_table_shows_what_fails_in_the_flow_of_data(show: Open) -> None:
    first, later = check("Layer 0 Value", "fail", rel_error="1e-9"), check("Layer 1 Value", "fail", rel_error="0.9")
    page = show(suite("tp2", (check("Embedding Output"), first, later)), suite("pp2", (first, check("Loss", "error"))))
    found = page.locator("#list tbody tr[data-check]").all_inner_texts()
    assert [row.split("\t")[1] + " " + row.split("\t")[3] for row in found] == [
        "pp2 Layer 0 Value",
        "tp2 Layer 0 Value",
        "tp2 Layer 1 Value",
        "pp2 Loss",
    ]
    page.locator("#of-status label", has_text="pass").click()
    assert "Embedding Output" in rows(page)


def test_the_table_filters_by_words_layout_component_and_status(show: Open) -> None:
    page = show(*failing())
    for status in ("pass", "known"):
        page.locator("#of-status label", has_text=status).click()
    page.fill("#words", "LAYER attention  pp2")
    assert page.locator("#shown").text_content() == "3 of 659 checks"
    page.select_option("#of-component", label="MLA")
    assert sorted(rows(page)) == ["Layer 0 Attention Output", "Layer 1 Attention Output"]
    page.locator("#of-status label", has_text="pass").click()
    assert rows(page) == ["Layer 1 Attention Output"]
    page.fill("#words", "no such check")
    assert page.locator("#list tbody").text_content() == "No check is like that."


def test_the_table_sorts_by_every_column_and_says_by_which(show: Open) -> None:
    far, near = check("Layer 10 Value", rel_error="9e-11", max_diff="3"), check("Layer 2 Value", max_diff="20")
    page = show(suite("tp2", (near, far, check("Loss", "fail", max_diff="nan"), check("Layer 1 Value", "known", max_diff="1"))))
    for status in ("pass", "known"):
        page.locator("#of-status label", has_text=status).click()
    head = page.locator("#list th", has_text="Check")
    assert rows(page) == ["Layer 2 Value", "Layer 10 Value", "Loss", "Layer 1 Value"], "as the file has them"
    assert head.get_attribute("aria-sort") == "ascending"
    page.locator("#list th", has_text="Status").locator("button").click()
    assert rows(page) == ["Loss", "Layer 1 Value", "Layer 2 Value", "Layer 10 Value"], "the worst first"
    page.locator("#list th", has_text="Ratio").locator("button").click()
    assert rows(page)[-1] == "Layer 2 Value"
    page.locator("#list th", has_text="Max diff").locator("button").click()
    assert rows(page) == ["Loss", "Layer 2 Value", "Layer 10 Value", "Layer 1 Value"]
    assert head.get_attribute("aria-sort") is None


MADE_BY_SORTING = """() => {
  const seen = new MutationObserver(() => {});
  seen.observe(document.querySelector("#list tbody"), { childList: true });
  document.querySelector("#list th[data-key=title] button").click();
  return seen.takeRecords().reduce((sum, one) => sum + one.addedNodes.length, 0);
}"""


def test_fourteen_thousand_checks_are_in_the_table_and_few_of_them_in_the_page(show: Open) -> None:
    suites = [suite(layout) for layout in LAYOUTS]
    page = show(*suites)
    total = sum(len(one.checks) for one in suites)
    assert page.locator("#list").get_attribute("aria-rowcount") == str(total + 1)
    assert page.locator("#list tbody tr").count() < 80
    page.locator("#list tbody button").first.focus()
    page.keyboard.press("End")
    last = page.locator("#list tbody tr[data-check]").last
    assert last.get_attribute("aria-rowindex") == str(total + 1)
    assert focused(page) == last.locator("button").text_content()
    page.keyboard.press("PageUp")
    assert page.locator("#list tbody tr").count() < 80
    page.keyboard.press("Enter")
    assert page.locator("dialog[open]").count() == 1
    assert 0 < page.evaluate(MADE_BY_SORTING) < 80


CONTRAST = """() => {
  const size = { width: 1, height: 1 };
  const canvas = Object.assign(document.createElement("canvas"), size).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [red, green, blue] = colour.map((part) => linear(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (element) => {
    const found = rgba(getComputedStyle(element).backgroundColor);
    return found[3] === 255 ? found : ground(element.parentElement);
  };
  const bad = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const hidden = !element.checkVisibility() || element.closest("script, style, .hidden, option");
    if (hidden || !texts.currentNode.data.trim()) continue;
    seen += 1;
    const both = [rgba(getComputedStyle(element).color), ground(element)].map(luminance);
    const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (contrast < 4.5) bad.add(`${element.className || element.tagName} ${contrast.toFixed(2)}`);
  }
  return [seen, [...bad]];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_on_every_ground_is_legible(show: Open, theme: str) -> None:
    """WCAG AA, 4.5 to 1, with a cell of every level."""
    passes = tuple(check(f"Layer {n} Value", rel_error=repr(5e-11 * 10.0 ** (n - 7))) for n in range(8))
    fails = tuple(
        check(f"Layer {n} {what}", status, rel_error=repr(5e-10 * 10.0 ** (3 * n)))
        for what, status in (("Attention Output", "fail"), ("Query Latent", "known"))
        for n in range(4)
    )
    lost = (check("Layer 0 KV Latent", "error"), check("Layer 1 KV Latent", "missing"))
    page = show(suite("tp2", (*passes, *fails, *lost)), suite("pp2"), color_scheme=theme)
    page.select_option("#map-layout", label="tp2")
    levels = {name for cell in page.locator("#grid td.cell").all() for name in [cell.get_attribute("class")]}
    assert levels >= {f"cell pass l{n}" for n in range(8)} | {
        f"cell {kind} l{n}" for kind in ("fail", "known") for n in range(4)
    }
    page.locator("#of-status label", has_text="pass").click()
    seen, bad = page.evaluate(CONTRAST)
    assert (seen > 500, bad) == (True, [])
    page.locator("#grid td.fail").first.click()
    assert page.evaluate(CONTRAST)[1] == []


def test_colours_follow_the_system_until_one_chooses(show: Open) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    dark, light = show(suite(), color_scheme="dark"), show(suite(), color_scheme="light")
    assert dark.evaluate(ground) != light.evaluate(ground)
    wanted = light.evaluate(ground)
    dark.locator("#theme label", has_text="Light").click()
    assert dark.evaluate(ground) == wanted
    kept = dark.evaluate("Object.entries(localStorage)")
    assert [value for _, value in kept] == ["light"], "the choice is kept"
    # Chromium on a busy machine loses what a page of a new context has stored, for good: what was kept is put back by hand.
    dark.add_init_script(f"for (const [key, value] of {json.dumps(kept)}) localStorage.setItem(key, value)")
    dark.reload()
    assert dark.evaluate(ground) == wanted, "the choice is taken up again"
    assert dark.locator("#theme label", has_text="Light").locator("input").is_checked()


@pytest.mark.parametrize(("motion", "name"), [("reduce", "none"), ("no-preference", "in")])
def test_nothing_moves_for_who_wants_no_motion(show: Open, motion: str, name: str) -> None:
    page = show(*failing(), reduced_motion=motion)
    page.locator("#grid td.fail").click()
    assert page.evaluate("getComputedStyle(document.querySelector('dialog')).animationName") == name


def test_on_a_telephone_nothing_is_cut_off(show: Open) -> None:
    page = show(*failing(), viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    heads = [head for head in page.locator("#list th").all() if head.is_visible()]
    assert [head.text_content() for head in heads] == ["Status", "Check", "Ratio"]
    assert page.locator("#list .where").first.text_content() == "pp2, MLA"
    page.locator("#list .link").first.click()
    assert page.locator("dialog").bounding_box()["width"] == pytest.approx(400)
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 400


def test_a_model_of_many_layers_has_a_map_without_numbers(show: Open) -> None:
    page = show(suite("tp2", tuple(check(f"Layer {layer} Value", "fail" if layer == 40 else "pass") for layer in range(61))))
    assert page.locator("#grid thead th").all_text_contents()[1:] == [str(layer) for layer in range(61)]
    assert page.locator("#grid").inner_text().count("✗") == 1
    assert not re.search(r"e-6|7e9", page.locator("#grid").inner_text())
    assert page.locator("#grid").bounding_box()["width"] < 1300


def test_hostile_results_are_shown_and_do_nothing(show: Open) -> None:
    texts = [text for text in HOSTILE.values() if len(text) < 200]
    page = show(*map(everywhere, texts))
    assert page.evaluate("window.hacked") is None
    for text in texts:
        page.evaluate("link => (location.hash = link)", anchor(text, text))
        wait_until(page, "text => document.querySelector('#sheet-title')?.textContent === text", text)
        close(page)
    assert page.evaluate("window.hacked") is None
    assert set(page.evaluate("[...document.links].map((link) => link.protocol)")) <= {"https:", "file:"}


def test_without_scripts_verdict_layouts_and_failures_can_be_read(show: Open) -> None:
    page = show(*failing(), java_script_enabled=False)
    assert page.locator("h1").inner_text().startswith("✗ Fail")
    assert page.locator("#layouts").is_visible()
    assert "Layer 1 Attention Output" in page.locator("noscript table").inner_text()
    assert not page.locator("#checks").is_visible()
    assert not page.locator("#theme").is_visible()


def test_pictures_are_as_wide_as_there_is_room(show: Open) -> None:
    history = History(tuple(Point(f"{n}", {("MLA", "fp64"): 1e-5}) for n in range(9)))
    layers = tuple(check(f"Layer {n} Value", rel_error=f"1e-1{n}") for n in range(4))
    page = show(run=replace(judged([suite(checks=layers)]), history=history), viewport={"width": 390, "height": 900})
    assert 250 < page.locator(".plots .plot").bounding_box()["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.querySelector('.error-line')).stroke") != "none"


def test_a_check_without_numbers_keeps_its_colour_and_says_where_they_are(show: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbered, "MOST", 2)
    passes = [check(f"Layer {layer} Value", rel_error=error) for layer, error in enumerate(("1e-13", "5e-11", "4e-11"))]
    page = show(suite("tp2", tuple(passes)), suite("ep2", tuple(passes[:2])))
    page.select_option("#map-layout", label="tp2")
    cell = page.locator('#grid [aria-label="Layer 2 Value in tp2: pass"]')
    assert "l7" in cell.get_attribute("class")
    cell.click()
    assert "Its numbers are in the JUnit file" in page.locator("#sheet-body").inner_text()
    close(page)
    page.click("#list th[data-key=share] button")
    assert page.locator("#list tbody tr[data-check]").count() == 5
    first = page.locator("#list tbody tr[data-check] .link").first
    assert first.text_content() == "Layer 1 Value"
    page.select_option("#map-layout", label="All, the worst of each")
    assert page.locator('#grid [aria-label^="Layer 1 Value in ep2: pass, 0.5"]').count() == 1


def test_a_list_that_would_be_higher_than_browsers_allow_reaches_its_end(show: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    part = ci.page.document._part
    monkeypatch.setattr(ci.page.document, "_part", lambda name: part(name).replace("HIGHEST = 12_000_000", "HIGHEST = 4_000"))
    page = show(suite("tp2", tuple(check(f"Layer {layer} Value") for layer in range(1000))))
    page.click('#list tbody tr[data-check="0"] button')
    close(page)
    rows = page.locator("#list tbody tr[data-check]")
    # The last press goes one row up from the end: a list that is put together wrong does not have it there.
    for key, focused in (("End", "Layer 999 Value"), ("ArrowUp", "Layer 998 Value"), ("Home", "Layer 0 Value")):
        page.keyboard.press(key)
        wait_until(page, "title => document.activeElement.textContent === title", focused)
    page.evaluate("box => { box.scrollTop = box.scrollHeight; }", page.locator("#viewport").element_handle())
    wait_until(page, "[...document.querySelectorAll('#list tbody tr[data-check]')].at(-1)?.dataset.check === '999'")
    bottom = "row => row.getBoundingClientRect().bottom - document.getElementById('viewport').getBoundingClientRect().bottom"
    assert abs(rows.last.evaluate(bottom)) < 3
    assert page.locator("#viewport").evaluate("box => box.scrollHeight") < 4_100
