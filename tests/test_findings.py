"""The pages on upstream bugs: each is there, found from the index, and says what a reader needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from validation.run.known import Known, table

ROOT = Path(__file__).parents[1]
FINDINGS = ROOT / "docs" / "findings"
PAGES = sorted(page.name for page in FINDINGS.glob("*.md") if page.name != "README.md")


def test_every_known_bug_has_its_page() -> None:
    for known in table():
        assert (ROOT / known.finding).is_file(), known.id


def test_the_index_has_every_page_and_no_other() -> None:
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (FINDINGS / "README.md").read_text())
    assert sorted(linked) == PAGES


@pytest.mark.parametrize("known", table(), ids=lambda known: known.id)
def test_a_known_bug_s_page_can_be_posted(known: Known) -> None:
    """What it is, whom it meets, what was measured, and how to see it without Plumbline."""
    text = (ROOT / known.finding).read_text()
    for section in ("What", "Where", "Who meets it", "Measured", "See it"):
        assert f"**{section}" in text, section
    assert "https://github.com/NVIDIA/" in text
