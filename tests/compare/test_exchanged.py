"""Every function of torch's that takes a dtype, a device or pinned memory is found, wherever it has been kept."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from validation.compare import exchanged, precision

_SPACES = (torch, torch.Tensor, *(getattr(torch._C, name) for name in exchanged._COMPILED))
_COMPILED = ("builtin_function_or_method", "method_descriptor")
_NEVER_SEEN = {"frombuffer", "get_default_device", "get_default_dtype", "ipu", "mtia", "result_type", "xpu"}
"""Their first line speaks of a dtype or a device. No mode sees the first; the others take none or move to what nobody has."""


def _says_so(space: Any, function: Any) -> bool:
    """Whether its documentation does in the first line, or its parser, which lists signatures for a keyword that none has."""
    if re.search(r"\b(dtype|device|pin_memory)\b", (function.__doc__ or "").strip().split("\n\n")[0]):
        return True
    try:
        function(*([torch.ones(1)] if space is torch.Tensor else []), plumbline=1)
    except (TypeError, RuntimeError) as error:
        return bool(re.search(r"torch\.(dtype|device)|pin_memory", str(error)))
    return False


def test_no_function_is_forgotten() -> None:
    """By what torch itself says, in ways other than the schemas that the names are taken from."""
    found = {
        name
        for space in _SPACES
        for name in dir(space)
        if type(function := getattr(space, name)).__name__ in _COMPILED and _says_so(space, function)
    }
    assert len(found) > 80
    assert sorted(found - exchanged.names() - _NEVER_SEEN) == []


def test_what_takes_none_of_them_is_left_alone() -> None:
    """The calls that a rank makes most often cost nothing."""
    exchanged.names.cache_clear()
    assert not {"matmul", "add", "add_", "mul", "reshape", "contiguous", "detach", "transpose"} & exchanged.names()
    assert len(exchanged.torchs()) < 400


_SINGLE = torch.float32
REACHED = {
    "a function": lambda: torch.ones(1, dtype=_SINGLE),
    "torch's own way": lambda: torch._VF.ones(1, dtype=_SINGLE),
    "a method": lambda: torch.ones(1).to(_SINGLE),
    "a module's method": lambda: torch.nn.Linear(1, 1).half().to(_SINGLE).weight,
    "torch.nn.functional": lambda: torch.nn.functional.softmax(torch.ones(1), 0, dtype=_SINGLE),
    "torch.fft": lambda: torch.fft.fftfreq(4, dtype=_SINGLE),
    "torch.linalg": lambda: torch.linalg.vector_norm(torch.ones(1), dtype=_SINGLE),
    "torch.linalg, compiled": lambda: torch._C._linalg.linalg_vector_norm(torch.ones(1), dtype=_SINGLE),  # type: ignore[attr-defined]
    "torch.special": lambda: torch.special.softmax(torch.ones(1), 0, dtype=_SINGLE),
    "an operator": lambda: torch.ops.aten.ones.default([1], dtype=_SINGLE),
    "a packet of operators": lambda: torch.ops.aten.ones([1], dtype=_SINGLE),
}


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("made", REACHED.values(), ids=REACHED)
def test_a_call_is_seen_whichever_way_it_goes(made: Callable[[], torch.Tensor]) -> None:
    """With an exchange as with a mode. Afterwards every function is where it was."""
    exchanged.torchs.cache_clear()
    spaces = list({id(space): space for space, _, _ in exchanged.torchs()}.values())
    before = [{name: id(value) for name, value in vars(space).items()} for space in spaces]
    for exchange in (False, True):
        with precision.computing_in("fp64", exchange=exchange):
            assert (torch.overrides._get_current_function_mode() is None) is exchange
            assert made().dtype is torch.float64
    assert [{name: id(value) for name, value in vars(space).items()} for space in spaces] == before


KEPT = {
    "a name": ("", lambda module: module.zeros),
    "a name in a module before": ("", lambda module: module.before.zeros),
    "a default": ("def make(n=1, how=zeros): return how if n else 0", lambda module: module.make()),
    "a default beside torch": ("import torch\ndel zeros\ndef make(how=torch.zeros): return how", lambda module: module.make()),
    "a default beside a part of torch": (
        "from torch import functional\ndef make(how=zeros): return how\ndel zeros",
        lambda module: module.make(),
    ),
    "a keyword's default": ("def make(*, n=1, how=zeros): return how if n else 0", lambda module: module.make()),
    "a class": ("class Makes: how = zeros", lambda module: module.Makes.how),
    "a method's default": ("class Makes:\n def make(self, how=zeros): return how", lambda module: module.Makes().make()),
    "a closure": ("make = (lambda how: lambda: how)(zeros)", lambda module: module.make()),
    "a closure beside an empty cell": (
        "def both(how):\n def make(): return how or never\n if not how: never = 0\n return make\nmake = both(zeros)",
        lambda module: module.make(),
    ),
}
_Read = Callable[[Any], Any]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of somebody else's, and the only other one beside torch while a test runs."""
    before, made = ModuleType("before"), ModuleType("somebodys")
    vars(made).update(zeros=torch.zeros, before=before)
    vars(before)["zeros"] = torch.zeros
    torchs = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torch"}
    monkeypatch.setattr(exchanged, "sys", SimpleNamespace(modules={**torchs, "before": before, "somebodys": made}))
    exchanged.others.cache_clear()
    yield made
    exchanged.others.cache_clear()


@pytest.mark.parametrize(("text", "read"), KEPT.values(), ids=KEPT)
def test_what_others_have_kept_is_exchanged_there(module: ModuleType, text: str, read: _Read) -> None:
    """And put back."""
    exec(text, vars(module))
    with precision.computing_in("fp64", exchange=True):
        assert torch.overrides._get_current_function_mode() is None
        assert read(module)(1, dtype=torch.float32).dtype is torch.float64
    assert read(module) is torch.zeros


def test_what_has_changed_since_is_left_alone(module: ModuleType) -> None:
    """The fork server looks where functions are, and a rank may put something else there."""
    exchanged.others()
    vars(module)["zeros"] = mine = object()
    del vars(module.before)["zeros"]
    with precision.computing_in("fp64", exchange=True):
        assert module.zeros is mine
    assert module.zeros is mine
    assert not hasattr(module.before, "zeros")


def _somebodys(function: Any) -> Any:
    function.__module__ = "somebodys"
    return function


TABLES = {
    "a table": lambda: {"zeros": torch.zeros},
    "a list": lambda: [torch.zeros],
    "a partial": lambda: partial(torch.zeros, 1),
    "a closure's table": lambda: _somebodys((lambda table: lambda: table)([torch.zeros])),
    "a static method": lambda: type("Makes", (), {"how": staticmethod(torch.zeros), "__module__": "somebodys"}),
}


@pytest.mark.parametrize("made", TABLES.values(), ids=TABLES)
def test_with_what_no_exchange_reaches_all_calls_are_seen(module: ModuleType, made: Callable[[], Any]) -> None:
    vars(module)["kept"] = made()
    with precision.computing_in("fp64", exchange=True):
        assert isinstance(torch.overrides._get_current_function_mode(), precision.Mode)
        assert torch.zeros(1, dtype=torch.float32).dtype is torch.float64


@pytest.mark.usefixtures("module")
def test_a_mode_sees_the_calls_that_it_could_change() -> None:
    """One of its own, as on the CPU; a block in which it promotes nothing is one here, too."""

    class Own(precision.Mode):
        def keywords(self, given: dict[str, Any]) -> dict[str, Any]:
            asked.append(sorted(given))
            return super().keywords({**given, "device": "cpu"} if given.get("device") == "cuda" else given)

    asked: list[list[str]] = []
    with precision.computing_in("fp64", Own, exchange=True):
        assert torch.zeros(2, device="cuda", dtype=torch.float32).dtype is torch.float64
        with precision.unpromoted():
            assert torch.ones(2, dtype=torch.float32).dtype is torch.float32
        assert torch.ones(2, dtype=torch.float32).dtype is torch.float64
        torch.add(torch.ones(1), 1, alpha=2)
    assert asked == [["device", "dtype"], ["dtype"], ["dtype"]]
