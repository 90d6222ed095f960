"""A plugin is found by its name, and one that would do nothing is refused."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from validation.case.errors import UsageError
from validation.run.plugin import FUNCTIONS, Plugin, load


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An importable module, empty."""
    made = ModuleType("some_plugin")
    monkeypatch.setitem(sys.modules, "some_plugin", made)
    return made


def test_no_name_is_a_plugin_that_does_nothing() -> None:
    assert load("") == Plugin()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_module_has_the_functions_that_it_wants(module: ModuleType, function: str) -> None:
    called: list[tuple[object, ...]] = []
    setattr(module, function, lambda *given: called.append(given))
    found = load("some_plugin")
    for word in FUNCTIONS:
        getattr(found, word)("case", "model")
    assert called == [("case", "model")]


def test_an_object_of_a_module_will_do(module: ModuleType) -> None:
    module.Own = Plugin(built=print)  # type: ignore[attr-defined]
    assert load("some_plugin:Own").built is print


@pytest.mark.parametrize("name", ["no_such_module", "some_plugin:missing"])
def test_one_that_cannot_be_imported_is_wrong_usage(module: ModuleType, name: str) -> None:
    with pytest.raises(UsageError, match=rf"^plugin {name}: cannot be imported \(.*give package\.module"):
        load(name)


def test_one_whose_functions_nobody_would_call_is_wrong_usage(module: ModuleType) -> None:
    module.lodaed = print  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="no function that a rank calls; those are configure, built, loaded, wrapped, stepped"):
        load("some_plugin")
