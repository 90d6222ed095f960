"""Running a check that needs no fixture: one call, without pytest's set-up and tear-down around it."""

from __future__ import annotations

from typing import Any

import pytest


class Straight:
    """Takes over from pytest's own protocol where every selected check is a function of its parameters.

    A check reads a few numbers in a tenth of a millisecond; setting up and tearing down take eight times as long, and there
    are thousands. One check with a fixture (a user's own, or one that a plugin puts everywhere) and pytest does it all.
    """

    def __init__(self) -> None:
        self._all_plain = False
        self._begun = True
        self._first: dict[Any, Any] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Look at what has been selected."""
        # pytest's own JUnit file is closed check by check when it is torn down.
        option, hook = session.config.option, session.config.hook.pytest_runtest_logstart
        self._all_plain = not getattr(option, "xmlpath", None) and all(_is_plain(item) for item in session.items)
        # pytest's own terminal says nothing of a check that begins, unless it says more than usual.
        self._begun = option.verbose >= 0 or {one.plugin_name for one in hook.get_hookimpls()} != {"terminalreporter"}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> bool | None:
        """Call the check and report it."""
        if not self._all_plain:
            return None
        hook = item.ihook
        self._share_location(item)
        if self._begun:
            hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        call = pytest.CallInfo.from_call(
            lambda: item.obj(**item.callspec.params), "call", reraise=(KeyboardInterrupt, pytest.exit.Exception)
        )
        report = hook.pytest_runtest_makereport(item=item, call=call)
        hook.pytest_runtest_logreport(report=report)
        if report.failed:
            hook.pytest_exception_interact(node=item, call=call, report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _share_location(self, item: Any) -> None:
        """Where a function stands, pytest asks the file system with every check; its checks differ in their names alone."""
        first = self._first.setdefault(item.obj, item)
        if first is not item:
            path, line, name = first.location
            vars(item)["location"] = (path, line, name.removesuffix(first.name) + item.name)


def _is_plain(item: Any) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    marked = any(mark.name in ("skip", "skipif", "xfail", "usefixtures") for mark in item.iter_markers())
    return bool(parameters) and set(item.fixturenames) == set(parameters) and not marked
