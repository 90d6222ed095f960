"""`--format json`: one JSON document on standard output, and everything else on standard error (docs/json.md)."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from validation.case.errors import ExitCode

SCHEMA = 1
"""Raised when something is taken away from the document or changes its meaning."""
OPTION = "--format"
_SHORTEST = "--fo"
"""argparse takes the beginning of an option's name for the option."""
_WORDS = {ExitCode.PASS: "PASS", ExitCode.FAIL: "FAIL"}
Document = dict[str, Any]


def asked_for(words: Sequence[str]) -> bool:
    """Whether a command's words ask for JSON, known before they are parsed: what is wrong with them is said in JSON, too."""
    if "-h" in words or "--help" in words:
        return False
    found = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if len(name) >= len(_SHORTEST) and OPTION.startswith(name):
            found = value if equals else following
    return found == "json"


def of(command: str, work: Callable[[Document], int]) -> int:
    """Do the work of a command, which adds to its document; write the document however it ends, and return the exit code."""
    said: Document = {"schema": SCHEMA, "command": command}
    code = int(ExitCode.FAIL)
    with _printing_to_standard_error() as out:
        try:
            code = work(said)
        except SystemExit as error:
            said["error"] = getattr(error, "sentence", "the command ended early; standard error says why")
            code = error.code if isinstance(error.code, int) else code
        except KeyboardInterrupt:
            said["error"], code = "interrupted", int(ExitCode.INTERRUPTED)
        except BaseException as error:
            said["error"] = repr(error)
            raise
        finally:
            _conclude(said, code)
            out.write(json.dumps(said, indent=1, allow_nan=False) + "\n")
            out.flush()
    return code


def _conclude(said: Document, code: int) -> None:
    """Add the exit code, and the verdict if the command has not said another: a run that broke is no failure."""
    said.setdefault("verdict", _WORDS.get(ExitCode(code), "ERROR") if code in list(ExitCode) else "ERROR")
    said["exit_code"] = int(code)


def number(text: str | float | None) -> float | None:
    """A number as JSON has it; None for one that is not finite, or for no number."""
    try:
        found = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None


@contextlib.contextmanager
def _printing_to_standard_error() -> Iterator[TextIO]:
    """Yields what standard output was. Processes that are started print to standard error, too."""
    out = sys.stdout
    out.flush()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if _number_of(out) == 1:
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
            out = stack.enter_context(os.fdopen(os.dup(kept), "w", encoding="utf-8"))
        yield out


def _number_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, ValueError, io.UnsupportedOperation):
        return None
