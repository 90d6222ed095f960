"""Whole pages of small runs are those that somebody has approved, to the byte (tests/ci/pages).

tests/ci/approved.py says how to write them again.
"""

from __future__ import annotations

import pytest

from ci.page.document import document
from tests.ci.approved import FOLDER, document_and_data, same_as_approved
from tests.ci.page_runs import RUNS

OTHERS = ("numbers.txt", "reproduction.txt")


@pytest.mark.parametrize("name", RUNS)
def test_the_page_of_a_run_is_the_approved_one(name: str) -> None:
    """With its data; only the style and the script are left out."""
    same_as_approved(f"{name}.html", document_and_data(document(RUNS[name](), f"A <{name}> run")))


def test_every_approved_file_is_compared() -> None:
    """A page that no test asks for would be approved for nothing."""
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.html" for name in RUNS} | set(OTHERS)
