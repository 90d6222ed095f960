"""What holds for every test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ci.service import PREFIXES
from tests.left_behind import Snapshot

_OF_THE_MACHINE = ("PLUMBLINE_CACHE", "PLUMBLINE_BROWSER")
_WATCH = pytest.StashKey[Snapshot]()


def pytest_configure(config: pytest.Config) -> None:
    """The checks may be imported: they bring a mark of their own. Commands that tests start can be interrupted."""
    config.addinivalue_line("markers", "every(name, kind): one check for every layer or parameter of a kind")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell without job control starts so what it ends with &
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share what takes long to make run in one process."""
    from tests.parts import scheduler

    return scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several processes begin with what takes longest; one alone takes the tests as they come."""
    if hasattr(config, "workerinput"):
        from tests.parts import longest_first

        items[:] = [items[index] for index in longest_first([item.nodeid for item in items])]


def pytest_collection_finish(session: pytest.Session) -> None:
    """All test modules have been imported, those of other machines' tests, too: none may have replaced anything of torch."""
    if names := Snapshot.take().stand_ins():
        raise pytest.UsageError(f"importing the tests leaves stand-ins for {', '.join(names)}")


@pytest.fixture(scope="session", autouse=True)
def outside_of_ci(request: pytest.FixtureRequest) -> Iterator[None]:
    """Commands run as on a developer's machine: CI has every run test itself, too, and the service says of which run it is."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name == "CI" or (name.startswith((*PREFIXES, "PLUMBLINE_")) and name not in _OF_THE_MACHINE):
                patch.delenv(name)
        request.config.stash[_WATCH] = Snapshot.take()
        yield
        _see_what_is_left(request.config, "the last test module")


@pytest.fixture(autouse=True)
def environment_put_back() -> Iterator[None]:
    """Commands that a test runs in this process set variables for the processes that they start."""
    yield from _put_back()


@pytest.fixture(autouse=True, scope="module")
def modules_environment_put_back() -> Iterator[None]:
    """So do commands of a fixture that all tests of a module share."""
    yield from _put_back()


def _put_back() -> Iterator[None]:
    before, bytecode = dict(os.environ), (sys.dont_write_bytecode, sys.pycache_prefix)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    sys.dont_write_bytecode, sys.pycache_prefix = bytecode


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """The last test of a module fails if the module leaves something behind in this process (tests.left_behind)."""
    yield
    if nextitem is not None and nextitem.path != item.path:
        _see_what_is_left(item.config, item.path.name)


def _see_what_is_left(config: pytest.Config, module: str) -> None:
    before = config.stash.get(_WATCH, None)
    if before is None:
        return  # every test so far was skipped
    now = config.stash[_WATCH] = Snapshot.take()
    if changed := before.left_behind(now):
        pytest.fail(f"{module} leaves this process changed for the tests after it: {'; '.join(changed)}", pytrace=False)
