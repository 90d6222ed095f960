"""What a check is called, known before anything has run: reports and manifest both ask here."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from validation.case.case import Case
from validation.checks.judging import Stated
from validation.checks.parity import Parity
from validation.checks.planted import Planted

if TYPE_CHECKING:
    from validation.run.result import Result


FOLDER = Path(__file__).parent


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

    without_bugs = result
    again = against_single


def title_of(item: Any) -> str:
    """What a check is called. It does not depend on what comes out, so that a check has one name in every run."""
    return stated_by(item).title


def stated_by(item: Any) -> Stated:
    """The first statement that a check makes; one that looks at results before it is called by the end of its node id."""
    callspec = getattr(item, "callspec", None)
    parameters: dict[str, Any] = callspec.params if callspec else {}
    planted, parity = parameters.get("planted"), parameters.get("parity")
    if isinstance(planted, Planted):
        return Stated(planted.title)
    unnamed = Stated(item.nodeid.rpartition("::")[2])
    if not isinstance(parity, Parity) or set(item.fixturenames) != set(parameters):
        return unnamed
    if parity.stated is not None:
        return parity.stated  # the check has been called, and began in the same way
    asked = Parity(parity.case, Nothing())
    with contextlib.suppress(Exception, SystemExit, pytest.fail.Exception, pytest.skip.Exception, pytest.exit.Exception):
        item.obj(**{**parameters, "parity": asked})
    return asked.stated or unnamed


def component_of(item: Any) -> str:
    """The component that a check is about: `mla` for test_mla.py beside this file.

    A module elsewhere is a component under its dotted path. That always has a dot, so none of ours has the same name.
    """
    return _component(item.path, item.config.rootpath)


@functools.cache
def _component(path: Path, root: Path) -> str:
    if path.parent == FOLDER:
        return path.stem.removeprefix("test_")
    found = path.relative_to(root) if path.is_relative_to(root) else path.relative_to(path.anchor)
    parts = found.with_suffix("").parts
    return ".".join(parts if len(parts) > 1 else (path.parent.name, *parts))
