"""Each script in docs/findings prints what its page says, with the megatron-core that this Python is given.

With another release, which PYTHONPATH puts in front of the installed one, or in its own environment:

    PYTHONPATH=FOLDER python -m pytest tests/findings
    .nox/megatron-core-0.19.2/bin/python -m pytest tests/findings

All scripts take about 160 seconds of one core, and as many run at the same time as there are cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from packaging.specifiers import SpecifierSet

from ci.releases import NEWEST, OLDER, RELEASES
from tests.findings.reproductions import FOLDER, Reproduction, missing, read, release, run
from validation.run.known import Known, table

ALL = [read(page) for page in sorted(FOLDER.glob("*.md")) if page.name != "README.md"]
SCRIPTS = [one for one in ALL if one.script]
STATES = {"live", "mended", "not yet", "refused", "not run", "report", "targets"}
_PRINTS = "test_a_script_prints_what_its_page_says"
"""The test that runs a script."""


def _called(one: Reproduction) -> str:
    return one.page


@pytest.fixture(scope="module")
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[list[str]]]]:
    """What each script prints, by page, of the tests that run. As many run at the same time as there are cores."""
    if reason := missing():
        pytest.skip(reason)
    names = {item.name for item in request.session.items}
    wanted = [one for one in SCRIPTS if _expected(one) and f"{_PRINTS}[{one.page}]" in names]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {one.page: pool.submit(run, one, tmp_path_factory.mktemp(one.page)) for one in wanted}


def _expected(one: Reproduction) -> list[str]:
    return one.prints.get(release(), [])


@pytest.mark.parametrize("one", SCRIPTS, ids=_called)
def test_a_script_prints_what_its_page_says(one: Reproduction, printed: dict[str, Future[list[str]]]) -> None:
    """To the digits shown, in any order of the ranks."""
    if not _expected(one):
        pytest.skip(f"the page does not show what megatron-core {release()} prints")
    assert printed[one.page].result() == _expected(one)


@pytest.mark.parametrize("one", SCRIPTS, ids=_called)
@pytest.mark.parametrize("version", [OLDER.megatron_core, NEWEST.megatron_core])
def test_a_page_shows_what_both_releases_print(one: Reproduction, version: str) -> None:
    """Unless the release does not have the code yet."""
    assert version in one.prints or one.status[version] == "not yet"


@pytest.mark.parametrize("one", ALL, ids=_called)
def test_a_page_has_a_status_for_every_release(one: Reproduction) -> None:
    """And for main."""
    assert set(one.status) == {release.megatron_core for release in RELEASES} | {"main"}
    assert set(one.status.values()) <= STATES


@pytest.mark.parametrize("entry", table(), ids=lambda entry: entry.id)
def test_a_status_is_that_of_the_table_of_known_bugs(entry: Known) -> None:
    """A release that the table has is live on the page, and one that mended the bug is not in the table."""
    status = read(FOLDER / f"{entry.id}.md").status
    known = {version for version in status if version != "main" and version in SpecifierSet(entry.megatron_core)}
    assert {status[version] for version in known} <= {"live", "refused", "not run"}
