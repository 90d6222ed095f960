"""The pages in docs/findings: complete, linked from their index, and named by the table of known bugs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from validation.run.known import Known, table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "findings"
INDEX = FOLDER / "README.md"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
SECTIONS = (
    "**Status.**",
    "**What.**",
    "**Where.**",
    "**Who meets it.**",
    "**Measured**",
    "**See it with Plumbline",
    "**See it without",
)
# A convention and no bug: it has a form of its own.
NOTES = ("mtp-loss-normalisation.md",)


def _links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry", table(), ids=lambda entry: entry.id)
def test_every_known_bug_names_a_page_of_the_folder(entry: Known) -> None:
    """The page of that name, or of the entry that this one is a form of, so that one finds the other."""
    page = ROOT / entry.finding
    assert page.parent == FOLDER
    assert page.stem in {one.id for one in table() if entry.id.startswith(one.id)}
    assert ROOT / entry.finding in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_index_has_every_page_once(page: Path) -> None:
    """A page that nothing links to is not read."""
    assert _links(INDEX).count(page.name) == 1


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NOTES], ids=lambda page: page.stem)
def test_every_page_has_the_sections_in_order(page: Path) -> None:
    """Which releases, what and where, whom it concerns, how large it is, and how to see it."""
    text = page.read_text(encoding="utf-8")
    places = [text.find(section) for section in SECTIONS]
    assert -1 not in places, f"missing: {[name for name, place in zip(SECTIONS, places, strict=True) if place < 0]}"
    assert places == sorted(places)


@pytest.mark.parametrize("page", [*PAGES, INDEX], ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Pages of ours exist; others are on GitHub, at a tag or with a number."""
    for link in _links(page):
        if link.startswith("https://"):
            assert re.match(r"https://github\.com/[\w-]+/[\w-]+/(blob/core_v|issues/\d|pull/\d)", link), link
        else:
            assert (page.parent / link).resolve().is_file(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_script_in_a_page_is_python(page: Path) -> None:
    """A reader copies it."""
    for script in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        compile(script, page.name, "exec")
