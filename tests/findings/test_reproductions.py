"""Each script in docs/findings prints what its page says, with the megatron-core that this Python is given.

With another release, which PYTHONPATH puts in front of the installed one, or in its own environment:

    PYTHONPATH=FOLDER python -m pytest tests/findings
    .nox/megatron-core-0.19.2/bin/python -m pytest tests/findings

As many scripts run at the same time as there are cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from ci.releases import NEWEST, OLDER, RELEASES
from tests.findings.forked import can_fork
from tests.findings.reproductions import FOLDER, Reproduction, fork, missing, of_forks, read, release, run
from validation.run.known import Known, table

ALL = [read(page) for page in sorted(FOLDER.glob("*.md")) if page.name != "README.md"]
SCRIPTS = [one for one in ALL if one.script]
STATES = {"live", "mended", "not yet", "refused", "not run", "report", "targets"}
_PRINTS = "test_a_script_prints_what_its_page_says"
"""The test that runs a script."""


ALONE = "expert-gradients-not-reduced"
"""A page of two ranks whose script is started by torchrun, as all pages say."""


def test_most_scripts_can_be_run_in_forks_and_one_of_two_ranks_is_started_as_its_page_says() -> None:
    """A script that does something before it imports megatron-core has a process of its own."""
    assert can_fork("import torch\nfrom megatron.core import parallel_state\n")
    assert not can_fork("import os\nos.environ['A'] = 'b'\nfrom megatron.core import parallel_state\n")
    assert [one.page for one in SCRIPTS if not can_fork(one.script)] == ["fused-cross-entropy-in-bf16"]
    assert [one.ranks for one in SCRIPTS if one.page == ALONE] == [2]


def _called(one: Reproduction) -> str:
    return one.page


@pytest.fixture(scope="module")
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Callable[[], list[str]]]:
    """What each script prints, by page, of the tests that run: most in forks of one process, `ALONE` as the page starts it."""
    if reason := missing():
        pytest.skip(reason)
    names = {item.name for item in request.session.items}
    wanted = [one for one in SCRIPTS if _expected(one) and f"{_PRINTS}[{one.page}]" in names]
    folders = {one.page: tmp_path_factory.mktemp(one.page) for one in wanted}
    forked = [one for one in wanted if one.page != ALONE and can_fork(one.script)]
    fork({folders[one.page]: one for one in forked})
    by_itself = {one.page: partial(run, one, folders[one.page]) for one in wanted if one not in forked}
    return by_itself | {one.page: partial(of_forks, folders[one.page], one.ranks) for one in forked}


def _expected(one: Reproduction) -> list[str]:
    return one.prints.get(release(), [])


@pytest.mark.parametrize("one", SCRIPTS, ids=_called)
def test_a_script_prints_what_its_page_says(one: Reproduction, printed: Mapping[str, Callable[[], list[str]]]) -> None:
    """To the digits shown, in any order of the ranks."""
    if not _expected(one):
        pytest.skip(f"the page does not show what megatron-core {release()} prints")
    assert printed[one.page]() == _expected(one)


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
    status = read(FOLDER / Path(entry.finding).name).status
    known = {version for version in status if version != "main" and version in SpecifierSet(entry.megatron_core)}
    assert {status[version] for version in known} <= {"live", "refused", "not run"}
