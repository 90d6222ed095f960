"""What megatron-core asks for that is not installed: missing from the machine, and no mistake of the code under test.

No torch: a process that has none asks, too.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from validation import checkout

_AROUND_IMPORTS = str(Path(__file__).parents[1] / "candidate" / "platform.py")
_CALLED = {"yaml": "pyyaml", "PIL": "pillow", "fla": "flash-linear-attention", "modelopt": "nvidia-modelopt"}
"""Module -> what brings it, if that has another name. pip takes - and _ for the same."""


def lacking(error: BaseException) -> str | None:
    """What megatron-core needs and this Python has not, in a sentence; None for an error of another kind.

    A module that is missing from megatron-core itself, or from the checkout around it, is a mistake there.
    """
    core = checkout.core()
    if core is None or not isinstance(error, ImportError):
        return None
    asking = frames(error)
    if not any(Path(frame.filename).is_relative_to(core) for frame in asking):
        return None
    where = f"{_shown(asking[-1].filename, core)}, line {asking[-1].lineno}"
    needs = f"megatron-core {checkout.version(core)} needs"
    if error.name is None:  # it has looked, and says so itself; Python's own such errors are raised by no line of its code
        said = f"{needs} what is not installed for {sys.executable}: {error} ({where})"
        return said if (asking[-1].line or "").startswith("raise") else None
    package = error.name.partition(".")[0]
    if package == "megatron" or _is_here(package):
        return None
    called = _CALLED.get(package, package.replace("_", "-"))
    missing = f"{needs} {package}, which is not installed for {sys.executable}"
    return f"{missing} ({where}, imports it); `pip install {called}` brings it"


def told(error: BaseException) -> str:
    """The exception in one line; one of an import with the file that asked for it."""
    kind = type(error)
    if said := lacking(error):
        return f"{kind.__name__}: {said}"
    if isinstance(error, ImportError) and (found := frames(error)):
        return f"{kind.__name__}: {error} ({found[-1].filename}, line {found[-1].lineno})"
    return f"{kind.__module__}.{kind.__qualname__}: {error}" if kind.__module__ != "builtins" else repr(error)


def frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where an exception came through, without the machinery of Python's import and what Plumbline puts around it."""
    found = traceback.extract_tb(error.__traceback__)
    return [frame for frame in found if not frame.filename.startswith("<frozen") and frame.filename != _AROUND_IMPORTS]


def _is_here(package: str) -> bool:
    """Whether there is such a package, or the checkout has it at its root, where nothing is imported from."""
    root = checkout.chosen()
    if root is not None and ((root / package).is_dir() or (root / f"{package}.py").is_file()):
        return True
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a stand-in that says nothing of where it is from
        return True


def _shown(file: str, core: Path) -> str:
    """A path within megatron-core as it is called there."""
    root = core.parents[1]
    return str(Path(file).relative_to(root)) if Path(file).is_relative_to(root) else file
