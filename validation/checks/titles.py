"""What a check is called, known before anything has run: reports and manifest both ask here."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from validation.case.case import Case
from validation.checks.parity import Parity
from validation.checks.planted import Planted

if TYPE_CHECKING:
    from validation.run.result import Result


class NotRun(Exception):
    """Asked for a result where nothing runs."""


class Nothing:
    """Has no results: a check goes as far as its first statement, which says what it is about."""

    def result(self, case: Case) -> Result:
        """None."""
        raise NotRun

    def against_single(self, case: Case) -> NoReturn:
        """None either."""
        raise NotRun


def title_of(item: Any) -> str:
    """The title of the first statement that a check makes; of one that looks at results before it, the end of its node id.

    It does not depend on what comes out, so that a check has one name in every run.
    """
    stated = getattr(item, "callspec", None)
    parameters: dict[str, Any] = stated.params if stated else {}
    planted = parameters.get("planted")
    if isinstance(planted, Planted):
        return planted.title
    title, parity = "", parameters.get("parity")
    if isinstance(parity, Parity) and set(item.fixturenames) == set(parameters):
        asked = Parity(parity.case, Nothing())
        with contextlib.suppress(Exception, pytest.fail.Exception, pytest.skip.Exception):
            item.obj(**{**parameters, "parity": asked})
        title = asked.title
    return title or item.nodeid.rpartition("::")[2]


def classname_of(nodeid: str) -> str:
    """The module of a check: `validation.checks.test_mla`."""
    return nodeid.partition("::")[0].removesuffix(".py").replace("/", ".")
