"""What a plugin may do in each rank: look at the model while it is made, or change it."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from validation.case.case import Case
from validation.case.errors import PlumblineError, UsageError
from validation.run.calls import Calls
from validation.run.replaced import Replaced

_FILE = re.compile(r"(?P<file>.*\.py)(?::(?P<argument>.*))?", re.DOTALL)
MAKER = "plugin"
"""A file's function that makes the plugin of an argument."""


def _nothing(*given: Any) -> None:
    """What a function that a plugin leaves out does."""


@dataclass(frozen=True)
class Plugin:
    """The functions that a rank calls, in this order; a plugin has one or more of them.

    `model` is a list: this rank's chunks of the model (megatron-core's GPTModel), one for each virtual pipeline stage, and for
    `wrapped` and `stepped` the same under DistributedDataParallel. `config` is the configuration that they are built from.
    Weights have been compared when `loaded` is called, gradients are not yet there when `wrapped` is. Steps count from 1.
    A resumed run makes the model anew: `configure`, `built`, `wrapped` and `loaded` are called again, in this order.
    """

    configure: Callable[[Case, Any], None] = _nothing
    built: Callable[[Case, Any], None] = _nothing
    loaded: Callable[[Case, Any], None] = _nothing
    wrapped: Callable[[Case, Any], None] = _nothing
    stepped: Callable[[Case, Any, int], None] = _nothing


FUNCTIONS = tuple(field.name for field in fields(Plugin))


class Elsewhere(Exception):
    """What a function of a plugin is about lies in another stage: it has nothing to do with these chunks.

    A pipeline stage and, layer by layer (`--stream`), each stage that a rank computes in turn have a part of the layers.
    """


_RAISED = (Exception, SystemExit, GeneratorExit)
"""What a plugin may raise. An interrupt is the user's."""
_OF_A_KERNEL = "AcceleratorError"
"""What torch raises where a kernel has failed."""


class PluginBroke(UsageError):
    """A plugin that cannot be used, or one of whose functions raised."""


def absolute(name: str) -> str:
    """The same plugin for processes that may work in another folder."""
    found = _FILE.fullmatch(name)
    return name if found is None else str(Path(found["file"]).resolve()) + name[len(found["file"]) :]


def file_of(name: str) -> Path | None:
    """The file of a plugin that is one, None for a module."""
    found = _FILE.fullmatch(name)
    return None if found is None else Path(found["file"])


def check(name: str) -> None:
    """Say what is wrong with a plugin as far as it can be seen without running it. Raises UsageError.

    Running it may need megatron-core, which only the ranks import.
    """
    found = _FILE.fullmatch(name)
    if found is None:
        _find_module(name)
    else:
        _check_file(name, Path(found["file"]), found["argument"])


def _find_module(name: str) -> None:
    if not name:
        return
    module = name.partition(":")[0]
    try:
        there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        there = False
    if not there:
        raise UsageError(f"--plugin {name}: no module {module} here; give FILE.py, or package.module of one on PYTHONPATH")


def _check_file(name: str, file: Path, argument: str | None) -> None:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise UsageError(
            f"--plugin {name}: {file} cannot be read ({error.strerror}); give the path of a Python file"
        ) from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: it is nested too deep
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        said = error.args[0] if error.args else type(error).__name__
        raise UsageError(f"--plugin {name}: {file}{where} is no Python ({said})") from error
    names = set(_defined(tree))
    if "*" in names:
        return  # what a star brings is seen in the ranks
    if argument is not None and MAKER not in names:
        raise UsageError(
            f"--plugin {name}: {file} takes no argument; give it a function {MAKER}(argument), or leave :{argument} out"
        )
    if not names & {MAKER, *FUNCTIONS}:
        raise UsageError(
            f"--plugin {name}: {file} has no function that a rank calls; those are {', '.join(FUNCTIONS)}, or {MAKER}"
        )
    for found, meant in _misspelled(tree):
        raise UsageError(f"--plugin {name}: nothing calls {found}(case, ...) of {file}; did you mean {meant}?")


def _misspelled(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Functions of a case that the file does not mention again, with the function of a plugin that has nearly their name."""
    nodes = list(ast.walk(tree))
    mentioned = {node.id for node in nodes if isinstance(node, ast.Name)}
    mentioned |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name in {*FUNCTIONS, *mentioned}:
            continue
        near = difflib.get_close_matches(node.name, FUNCTIONS, n=1, cutoff=0.7)
        if near and "case" in [given.arg for given in node.args.args[:2]]:
            yield node.name, near[0]


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module binds anywhere outside of functions; those of an `if` or a `try` among them."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        todo += ast.iter_child_nodes(node)


class Threads:
    """What a thread of a rank with a plugin raises, which Python writes to a log that nobody reads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._raised: list[str] = []
        if name:
            threading.excepthook = lambda about: self._raised.append(repr(about.exc_value))

    def all_well(self) -> None:
        """Raises PluginBroke if one has raised: what it was to do is not done."""
        if self._raised:
            raise PluginBroke(f"plugin {self._name}: a thread of the rank raised {self._raised[0]}")


def load(name: str, replaced: Replaced | None = None, calls: Calls | None = None) -> Plugin:
    """The plugin that `name` says; none for ''.

    `FILE.py` is a module with such functions; `FILE.py:argument` one whose function `plugin(argument)` returns an object with
    them (called with '' where no argument is given). `package.module` and `package.module:object` are taken as they are. All
    are loaded before there are process groups. `replaced` notes what they put into megatron-core, `calls` what came of each.
    Raises UsageError where it cannot be had, or where none of its functions would ever be called.
    """
    if not name:
        return Plugin()
    file, replaced, calls = _FILE.fullmatch(name), replaced or Replaced(watching=False), calls or Calls()
    with replaced.changing():
        found = _from_file(name, Path(file["file"]), file["argument"] or "") if file else _from_module(name)
    _leave_the_reference_alone(name, replaced)
    functions = _functions(name, found)
    if not functions:
        raise UsageError(f"plugin {name}: it has no function that a rank calls; those are {', '.join(FUNCTIONS)}")
    calls.has, calls.loading = list(functions), replaced.changed
    return Plugin(**{word: _named(name, word, function, replaced, calls) for word, function in functions.items()})


def _functions(name: str, found: Any) -> dict[str, Callable[..., Any]]:
    try:
        named = {word: getattr(found, word, None) for word in FUNCTIONS}
    except Exception as error:  # of a property
        raise PluginBroke(f"plugin {name}: asked for its functions, it raised {error!r}") from error
    return {word: function for word, function in named.items() if callable(function)}


def _from_module(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        return getattr(found, attribute) if attribute else found
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"plugin {name}: cannot be imported ({error}); give package.module, or package.module:name, of something importable"
        ) from error
    except PlumblineError:
        raise
    except _RAISED as error:
        raise PluginBroke(f"plugin {name}: importing {module_name} raised {error!r}") from error


def _from_file(name: str, file: Path, argument: str) -> Any:
    """Run the file, once, as a module of its own; it may import what lies beside it, as a script may."""
    module_name = f"plumbline_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin {name}: {file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
        return module.plugin(argument) if hasattr(module, MAKER) else module
    except PlumblineError:
        raise
    except _RAISED as error:
        raise PluginBroke(f"plugin {name}: running {file.name} raised {error!r}") from error


def _named(name: str, word: str, function: Callable[..., Any], replaced: Replaced, calls: Calls) -> Callable[..., None]:
    """The function; what it raises says that it was the plugin's, and `calls` notes whether it did anything."""

    def called(*given: Any) -> None:
        try:
            with replaced.changing():
                returned = function(*given)
        except Elsewhere as said:
            calls.elsewhere[word] = str(said)
            return
        except PlumblineError:
            raise
        except _RAISED as error:
            if type(error).__name__ == _OF_A_KERNEL:
                raise  # a GPU says so at a later call, whose line may be anybody's
            raise PluginBroke(f"plugin {name}: its {word} raised {error!r}") from error
        _leave_the_reference_alone(name, replaced)
        if wrong := _in_vain(returned, given[1]):
            raise PluginBroke(f"plugin {name}: its {word} {wrong}")
        calls.did.add(word)

    return called


def _leave_the_reference_alone(name: str, replaced: Replaced) -> None:
    """Raises UsageError if the plugin has changed what both models compute with: their difference would not show it.

    Or what compares them. The house's own plugins may, which count what is compared.
    """
    if replaced.judging and not name.startswith(f"{__name__.partition('.')[0]}."):
        raise PluginBroke(
            f"plugin {name}: it replaces {replaced.judging[0]}, which compares what it changes; replace what megatron-core has"
        )
    if replaced.of_both:
        raise UsageError(
            f"plugin {name}: it replaces {replaced.of_both[0]}, which HuggingFace's model in the same process calls, too; "
            "without --stream each model has a process of its own"
        )


def _in_vain(returned: Any, given: Any) -> str:
    """What is wrong with a function that returns what nobody takes: `given`, the configuration or the chunks, is what counts.

    Empty if nothing is, as for a number, or for what was given.
    """
    if inspect.iscoroutine(returned) or inspect.isgenerator(returned) or inspect.isasyncgen(returned):
        if inspect.iscoroutine(returned):
            returned.close()
        return "has not run: it is a generator or a coroutine; leave out yield and async"
    if returned is not given and not isinstance(given, list) and type(returned) is type(given):
        return "returns another configuration, which nothing takes; change the fields of the one that it is given"
    found = returned if isinstance(returned, list | tuple) else [returned]
    if isinstance(given, list) and any(_is_module(one) and not _is_part(one, given) for one in found):
        return "returns another model, which nothing takes; change the modules that it is given, or put others into the list"
    return ""


def _is_module(found: Any) -> bool:
    """Whether it is one of torch's, which this module does without."""
    return not isinstance(found, type) and callable(getattr(found, "named_parameters", None))


def _is_part(module: Any, chunks: list[Any]) -> bool:
    return any(module is part for chunk in chunks if _is_module(chunk) for part in chunk.modules())
