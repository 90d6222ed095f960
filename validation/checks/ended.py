"""What a run of pytest ends with, in our exit codes: pytest has other meanings for 2, 3 and 4."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from validation.case.errors import ExitCode

_PYTESTS = {
    pytest.ExitCode.OK: ExitCode.PASS,
    pytest.ExitCode.TESTS_FAILED: ExitCode.FAIL,
    pytest.ExitCode.INTERNAL_ERROR: ExitCode.FAIL,
}
"""The others are those of options that pytest does not take, of no check, and of one that cannot be imported."""


class Ended:
    """A plugin that keeps the code with which the report or `pytest.exit` ends the run; `pytest.main` makes it pytest's."""

    def __init__(self) -> None:
        self._ours: ExitCode | None = None
        self._session: pytest.Session | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Called before anything that takes time."""
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """The report has set the session's code when the others have finished."""
        try:
            result = yield
        except pytest.exit.Exception as error:
            self._take(error.returncode)
            raise
        self._take(session.exitstatus)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Called for `pytest.exit`, too, and where pytest stops itself, as when a check cannot be imported.

        An interrupt goes on to the command: pytest would say in which line of some library it came.
        """
        if isinstance(excinfo.value, pytest.exit.Exception):
            code = excinfo.value.returncode
            self._ours = code if isinstance(code, ExitCode) else ExitCode.USAGE  # a user's check or plugin has ended the run
        elif not isinstance(excinfo.value, pytest.Session.Interrupted):
            if self._session is not None:
                self._session.exitstatus = ExitCode.INTERRUPTED
            raise excinfo.value

    def _take(self, code: int | None) -> None:
        if isinstance(code, ExitCode):
            self._ours = code

    def code(self, pytests: int) -> ExitCode:
        """The run's; `pytests` is what `pytest.main` has returned."""
        return _PYTESTS.get(pytest.ExitCode(pytests), ExitCode.USAGE) if self._ours is None else self._ours
