"""What a plugin puts into megatron-core is handed on to what stands for a training script, and noted until it is called."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

from validation.run import replaced
from validation.run.replaced import Replaced

HOME, READER = "megatron.core.a_home", "megatron.core.a_reader"


class Layer:
    """Of megatron-core."""

    def forward(self) -> int:
        """Compute."""
        return 1


def compute() -> int:
    """Of megatron-core."""
    return 1


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of megatron-core, and another that has imported all of it."""
    for name in (HOME, READER):
        module = ModuleType(name)
        vars(module).update(Layer=Layer, compute=compute, number=1)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Layer, "__module__", HOME)
    monkeypatch.setattr(Layer, "forward", Layer.forward)
    yield sys.modules[HOME]
    sys.setprofile(None)


def other() -> int:
    """What a plugin has instead."""
    return 2


class Other(Layer):
    """What a plugin has instead."""

    def forward(self) -> int:
        """Compute."""
        return 2


@functools.wraps(other)
def around() -> int:
    return other()


def put(home: ModuleType, name: str, value: Any) -> Replaced:
    """Have a plugin set a name of the module, or of its class."""
    found = Replaced()
    with found.changing():
        owner, _, last = name.rpartition(".")
        setattr(getattr(home, owner) if owner else home, last, value)
    return found


@pytest.mark.parametrize(
    ("name", "value", "call"),
    [
        ("compute", other, other),
        ("compute", around, around),
        ("compute", functools.partial(other), other),
        ("Layer", Other, lambda: Other().forward()),
        ("Layer.forward", other, other),
        ("Layer.forward", staticmethod(other), other),
    ],
)
def test_it_is_named_until_it_is_called(home: ModuleType, name: str, value: Any, call: Callable[[], object]) -> None:
    before, where = vars(home).copy(), READER if "." not in name else ""
    assert put(home, name, value).end() == {f"{HOME}.{name}": where}
    vars(home).update(before)
    Layer.forward = compute  # type: ignore[assignment, method-assign]
    found = put(home, name, value)
    call()
    assert found.end() == {}


def test_what_is_no_function_of_python_is_not_named(home: ModuleType) -> None:
    """Nobody can see whether it is read."""
    assert put(home, "number", 2).end() == put(home, "compute", len).end() == {}


def test_what_is_new_or_the_same_is_not_named(home: ModuleType) -> None:
    assert put(home, "more", other).end() == put(home, "compute", compute).end() == {}


def test_calls_of_the_plugin_itself_do_not_count(home: ModuleType) -> None:
    found = put(home, "compute", other)
    with found.changing():
        other()
    assert list(found.end()) == [f"{HOME}.compute"]


def test_one_that_was_called_may_be_replaced_again(home: ModuleType) -> None:
    """As a plugin does that is asked for each layer: the last of them may have no use for it."""
    made = [lambda: other() for _ in range(2)]
    found = put(home, "compute", made[0])
    home.compute()
    with found.changing():
        home.compute = made[1]  # type: ignore[attr-defined]
    assert found.end() == {}
    with found.changing():
        home.compute = around  # type: ignore[attr-defined]
    assert list(found.end()) == [f"{HOME}.compute"]


def test_one_that_does_not_watch_names_nothing(home: ModuleType) -> None:
    found = Replaced(watching=False)
    with found.changing():
        home.compute = other  # type: ignore[attr-defined]
    assert found.end() == {}
    assert sys.getprofile() is None


@pytest.mark.parametrize(
    ("lockstep", "expected"), [(True, ["torch.nn.functional.silu", "torch.nn.modules.activation.SiLU.forward"]), (False, [])]
)
def test_in_lockstep_what_the_reference_calls_too_is_named(
    monkeypatch: pytest.MonkeyPatch, lockstep: bool, expected: list[str]
) -> None:
    """What is new there is nobody's, and what a rank of another process replaces is no business of the reference's."""
    found = Replaced(lockstep=lockstep)
    with found.changing():
        for place, name in ((functional, "silu"), (torch.nn.SiLU, "forward"), (functional, "new")):
            monkeypatch.setattr(place, name, other, raising=False)
    assert found.of_both == expected
    found.end()


@pytest.mark.parametrize(("module", "expected"), [(HOME, other), (READER, compute)])
def test_a_training_script_would_import_it(
    home: ModuleType, module: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the module in which it is replaced, and from no other."""
    script = ModuleType("a_script")
    vars(script).update(own=compute)
    monkeypatch.setitem(sys.modules, "a_script", script)
    monkeypatch.setattr(replaced, "_TRAINING", ("a_script",))
    monkeypatch.setattr(replaced, "_imported", lambda reader: {(module, "compute"): "own"})
    put(home, "compute", other).end()
    assert script.own is expected


def test_its_imports_are_read_from_its_source() -> None:
    import validation.case.case  # noqa: F401 - any module

    assert replaced._imported("validation.case.case")["validation.case.layout", "Layout"] == "Layout"


class _Importing(str):
    """Compared with a module's name, it imports one, or forgets it again."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        if sys.modules.pop("plumbline_imports_this", None) is None:
            sys.modules["plumbline_imports_this"] = ModuleType("plumbline_imports_this")
        return str.__eq__(self, other)


def test_what_is_imported_meanwhile_is_no_error(home: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a GPU another thread imports, while a plugin's part of megatron-core is looked through."""
    monkeypatch.setattr(replaced, "_PACKAGE", _Importing("megatron.core"))
    monkeypatch.setitem(sys.modules, "plumbline_imports_this", ModuleType("plumbline_imports_this"))
    assert home in replaced._modules(replaced._core)
