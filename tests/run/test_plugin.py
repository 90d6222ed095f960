"""A plugin is found by its name or its file, and one that would do nothing is refused."""

from __future__ import annotations

import os
import pkgutil
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from validation.case.errors import UsageError
from validation.run.plugin import FUNCTIONS, Plugin, PluginBroke, Threads, absolute, check, load
from validation.run.replaced import Replaced


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
    called: list[tuple[object, ...]] = []
    module.Own = Plugin(built=lambda *given: called.append(given))  # type: ignore[attr-defined]
    load("some_plugin:Own").built("case", "model")  # type: ignore[arg-type]
    assert called == [("case", "model")]


@pytest.mark.parametrize("name", ["no_such_module", "some_plugin:missing"])
def test_one_that_cannot_be_imported_is_wrong_usage(module: ModuleType, name: str) -> None:
    with pytest.raises(UsageError, match=rf"^plugin {name}: cannot be imported \(.*give package\.module"):
        load(name)


def test_one_whose_functions_nobody_would_call_is_wrong_usage(module: ModuleType) -> None:
    module.lodaed = print  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="no function that a rank calls; those are configure, built, loaded, wrapped, stepped"):
        load("some_plugin")


Write = Callable[[str], str]
MAKER = """
class Own:
    def __init__(self, argument):
        self.argument = argument

    def built(self, case, model):
        model.append(self.argument)


def plugin(argument):
    return Own(argument)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a file and names it; what it puts beside other modules goes again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def made(text: str) -> str:
        (tmp_path / "own.py").write_text(text)
        return str(tmp_path / "own.py")

    return made


def test_the_functions_of_a_file_are_a_plugin(write: Write) -> None:
    name = write("def built(case, model):\n    model.append(case)\n")
    check(name)
    seen: list[str] = []
    load(name).built("a case", seen)  # type: ignore[arg-type]
    assert seen == ["a case"]


@pytest.mark.parametrize(("argument", "got"), [(":3", "3"), (":a=1:b=2", "a=1:b=2"), (":", ""), ("", "")])
def test_a_file_makes_a_plugin_of_an_argument(write: Write, argument: str, got: str) -> None:
    name = write(MAKER) + argument
    check(name)
    seen: list[str] = []
    load(name).built("a case", seen)  # type: ignore[arg-type]
    assert seen == [got]


def test_a_file_may_import_what_lies_beside_it(write: Write, tmp_path: Path) -> None:
    (tmp_path / "beside_own.py").write_text("VALUE = 5\n")
    name = write("import beside_own\ndef built(case, model):\n    model.append(beside_own.VALUE)\n")
    seen: list[int] = []
    load(name).built("a case", seen)  # type: ignore[arg-type]
    assert seen == [5]


@pytest.mark.parametrize(
    ("text", "argument", "says"),
    [
        ("def built(:\n", "", r"own\.py, line 1 is no Python"),
        ("def bilt(case, model): ...\n", "", "has no function that a rank calls; those are configure, .*, or plugin$"),
        ("def built(case, model): ...\n", ":3", r"takes no argument; give it a function plugin\(argument\), or leave :3 out$"),
        ("def outer():\n    def built(case, model): ...\n", "", "has no function that a rank calls"),
        (
            "def built(case, model): ...\nclass Own:\n    def load(self, case, model): ...\n",
            "",
            r"nothing calls load\(case, \.\.\.\) of .*own\.py; did you mean loaded\?$",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_without_running_it(write: Write, text: str, argument: str, says: str) -> None:
    with pytest.raises(UsageError, match=rf"^--plugin .*own\.py{argument}: .*{says}"):
        check(write(text) + argument)


@pytest.mark.parametrize(
    "text",
    [
        "from elsewhere import built\n",
        "from elsewhere import *\n",
        "import elsewhere\nbuilt = elsewhere.other\n",
        "if True:\n    def built(case, model): ...\n",
        "raise RuntimeError\ndef built(case, model): ...\n",
        "def load(case, model): ...\ndef loaded(case, model):\n    load(case, model)\n",
        "def built(case, model): ...\ndef wrap(sound): ...\n",
    ],
)
def test_what_only_running_it_can_tell_is_left_to_the_ranks(write: Write, text: str) -> None:
    check(write(text))


@pytest.mark.parametrize("name", ["nowhere/own.py", "nowhere/own.py:3"])
def test_a_file_that_is_not_there_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError, match=rf"^--plugin {name}: nowhere/own\.py cannot be read \(No such file"):
        check(name)


def test_a_module_that_is_not_there_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"^--plugin no_such\.module: no module no_such\.module here; give FILE\.py"):
        check("no_such.module")


@pytest.mark.parametrize("text", ["1 / 0\n", "raise SystemExit\n", "def plugin(argument):\n    return 1 / argument\n"])
def test_a_file_that_raises_says_so(write: Write, text: str) -> None:
    name = write(text)
    with pytest.raises(PluginBroke, match=rf"^plugin {name}: running own\.py raised (ZeroDivisionError|TypeError|SystemExit)"):
        load(name)


@pytest.mark.parametrize("text", ["1 / 0\n", "raise SystemExit\n", "def f(:\n", "raise GeneratorExit\n"])
def test_a_module_that_raises_says_so(write: Write, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """As a file does: it is no broken machine."""
    monkeypatch.syspath_prepend(str(Path(write(text)).parent))
    said = "ZeroDivisionError|SystemExit|SyntaxError|GeneratorExit"
    with pytest.raises(PluginBroke, match=rf"^plugin own: importing own raised ({said})"):
        load("own")


def test_a_property_that_raises_says_so(write: Write) -> None:
    name = write("class Own:\n    built = property(lambda self: 1 / 0)\n\n\ndef plugin(argument):\n    return Own()\n")
    with pytest.raises(PluginBroke, match=rf"^plugin {name}: asked for its functions, it raised ZeroDivisionError"):
        load(name)


def test_a_thread_that_raises_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python tells it to a log, and goes on."""
    monkeypatch.setattr(threading, "excepthook", sound := threading.excepthook)
    Threads("").all_well()
    assert threading.excepthook is sound
    threads = Threads("own.py")
    threads.all_well()
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    with pytest.raises(PluginBroke, match=r"^plugin own\.py: a thread of the rank raised ZeroDivisionError"):
        threads.all_well()


def test_a_function_that_raises_says_whose_it_is(write: Write) -> None:
    name = write("def loaded(case, model):\n    1 / 0\n\n\ndef built(case, model):\n    raise SystemExit(0)\n")
    with pytest.raises(PluginBroke, match=rf"^plugin {name}: its loaded raised ZeroDivisionError"):
        load(name).loaded("a case", [])  # type: ignore[arg-type]
    with pytest.raises(PluginBroke, match=rf"^plugin {name}: its built raised SystemExit\(0\)"):
        load(name).built("a case", [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("async def built(case, model): ...\n", "has not run: it is a generator or a coroutine"),
        ("def built(case, model):\n    yield\n", "has not run: it is a generator or a coroutine"),
        ("import copy\ndef built(case, model):\n    return copy.copy(model)\n", "returns another configuration"),
        ("import torch\ndef built(case, model):\n    return [torch.nn.Identity()]\n", "returns another model"),
        ("def built(case, model):\n    return model\n", ""),
        ("def built(case, model):\n    return model[0][1]\n", ""),
        ("def built(case, model):\n    return 3\n", ""),
    ],
)
def test_what_a_function_returns_in_vain_is_refused(write: Write, text: str, says: str) -> None:
    name = write(text)
    given = SimpleNamespace() if "configuration" in says else [torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())]
    with pytest.raises(PluginBroke, match=rf"^plugin {name}: its built {says}") if says else nullcontext():
        load(name).built("a case", given)  # type: ignore[arg-type]


@pytest.mark.parametrize("when", ["import", "call"])
def test_in_lockstep_what_changes_the_reference_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """At once, whichever of its code does it."""
    monkeypatch.setattr(torch, "rsqrt", torch.rsqrt)
    change = "torch.rsqrt = torch.sqrt\n"
    name = write("import torch\n" + (change if when == "import" else "") + f"def built(case, model):\n    {change}")
    with pytest.raises(UsageError, match=rf"^plugin {name}: it replaces torch\.rsqrt, .*; without --stream"):
        load(name, Replaced(watching=False, lockstep=True)).built("a case", [])  # type: ignore[arg-type]


@pytest.mark.parametrize("when", ["import", "call"])
@pytest.mark.parametrize("what", ["candidate.recorder.Recorder.compare", "compare.verdict.judge"])
def test_what_replaces_what_compares_it_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch, when: str, what: str) -> None:
    """Nothing would show what else it does."""
    monkeypatch.setattr(f"validation.{what}", pkgutil.resolve_name(f"validation.{what}"))
    change = f"import validation.{what.rpartition('.')[0].removesuffix('.Recorder')} as v; "
    owner = "v.Recorder" if "Recorder" in what else "v"
    change += f"{owner}.{what.rpartition('.')[2]} = lambda *given: None\n"
    name = write((change if when == "import" else "") + f"def built(case, model):\n    {change}")
    with pytest.raises(PluginBroke, match=rf"^plugin {name}: it replaces validation\.{what}, which compares what it changes"):
        load(name).built("a case", [])  # type: ignore[arg-type]


def test_a_path_is_the_same_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("own.py:3") == f"{tmp_path}{os.sep}own.py:3"
    assert absolute("package.module:name") == "package.module:name"
