"""Switches of Python that decide nothing: warnings as exceptions, no modules from the working folder, an encoding for output.

Where Python writes no bytecode (validation.case.bytecode), each process settles that for itself.

They reach a process as options (`-W error`, `-P`) and as variables, and the Python processes that it starts through it.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from validation.case import bytecode


def settle() -> None:
    """For this process, and for those that it starts from here."""
    _raise_no_warning()
    _find_our_modules()
    _write_every_letter()
    bytecode.keep()


def _write_every_letter() -> None:
    """Output whose encoding lacks a letter has its number, as standard error does: a verdict is no matter of the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _raise_no_warning() -> None:
    """Print every warning that would be raised as an exception: those of libraries are no finding."""
    filters: list[Any] = list(warnings.filters)
    for action, _, category, _, _ in filters:
        if action == "error":
            warnings.simplefilter("default", category)
    # Of `-bb` Python makes this option, and looks for it when it starts another.
    own = ["error::BytesWarning"] if sys.flags.bytes_warning > 1 else []
    sys.warnoptions[:] = [*(option for option in sys.warnoptions if not _raises(option)), *own]
    kept = [option for option in os.environ.pop("PYTHONWARNINGS", "").split(",") if option and not _raises(option)]
    if kept:
        os.environ["PYTHONWARNINGS"] = ",".join(kept)


def _raises(option: str) -> bool:
    """Whether `action:message:category:module:line` asks for exceptions. Python takes any beginning of an action's name."""
    action = option.partition(":")[0].strip()
    return bool(action) and "error".startswith(action)


def _find_our_modules() -> None:
    """PYTHONPATH gets the folder of this package where a started Python does not look by itself."""
    if not sys.flags.safe_path:
        return
    ours = str(Path(__file__).parents[2])
    given = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*given, ours]))
