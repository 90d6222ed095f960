"""How the checks are given to pytest: by Plumbline alone, whatever configuration, plugins and variables are around.

pytest looks for a configuration file in every folder above the checks, imports a conftest.py from each of them, loads a plugin
of every installed package that has one, and takes options and plugins from variables. Each may leave checks out. A user's own
options and plugins stand behind `--` on the command line, where everybody sees them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from validation.checks import conftest
from validation.checks.ended import Ended
from validation.run.options import Given

FOLDER = Path(__file__).parent
_UNWANTED = ("cacheprovider", "logging", "warnings", "unraisableexception", "threadexception", "faulthandler", "pastebin")
"""Plugins of pytest that watch the code of a test. A check only reads numbers, and there are thousands."""
_OURS = (
    *("-c", str(FOLDER / "plumbline.ini"), "--rootdir", str(FOLDER.parents[1])),
    "--noconftest",  # ours is handed over as a plugin
    *("--capture=no", *(word for plugin in _UNWANTED for word in ("-p", f"no:{plugin}"))),
)
_AUTOLOAD = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
_OF_PYTEST = ("PYTEST_", "PY_IGNORE_IMPORTMISMATCH")
"""How the variables begin that pytest reads."""


def run(given: Given, words: Sequence[str], *plugins: object) -> int:
    """Run pytest on the checks with a user's `words`; the exit code (validation.case.errors.ExitCode).

    An interrupt is raised, and not told by pytest. `plugins` are objects of ours that the report takes in. Raises what the
    answer to the given question raises; then nothing has been run.
    """
    ended = Ended()
    with _without_pytests_variables():
        code = pytest.main([str(FOLDER), *_OURS, *words], plugins=[conftest, given, ended, *plugins])
    return int(ended.code(code))


@contextlib.contextmanager
def _without_pytests_variables() -> Iterator[None]:
    """Within it pytest finds no variable of its own but the one by which it loads no plugin that nobody has named."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_OF_PYTEST)}
    try:
        for name in kept:
            del os.environ[name]
        os.environ[_AUTOLOAD] = "1"
        yield
    finally:
        os.environ.pop(_AUTOLOAD, None)
        os.environ.update(kept)
