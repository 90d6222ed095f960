"""Switches of the interpreter do not reach the libraries, in whichever way they are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_WARNS = "import warnings; warnings.warn('old', DeprecationWarning)"
_STARTS = (
    "from validation.case import interpreter; interpreter.settle(); import subprocess, sys; "
    "from multiprocessing.util import _args_from_interpreter_flags as flags; "
    f"{_WARNS}; sys.exit(subprocess.run([sys.executable, *flags(), '-c', sys.argv[1]], cwd='/').returncode)"
)


def started(inner: str, *switches: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a Python that warns, and then starts another one as multiprocessing does, ends with."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | variables
    command = [sys.executable, *switches, "-c", _STARTS, inner]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("action", ["error", "e", "err::DeprecationWarning", "ignore,error"])
def test_a_warning_raises_nothing_here_or_in_what_is_started(action: str) -> None:
    """PYTHONWARNINGS and `-W`, which Python hands on separately, in every spelling that Python takes."""
    by_switch = [word for one in action.split(",") for word in ("-W", one)]
    for done in (started(_WARNS, PYTHONWARNINGS=action), started(_WARNS, *by_switch)):
        assert done.returncode == 0, done.stderr


def test_bytes_compared_with_text_raise_nothing_here() -> None:
    """`-bb` is an option of its own, which Python hands on, and the development mode shows every warning."""
    done = started("", "-bb", "-X", "dev", "-W", "error")
    assert done.returncode == 0, done.stderr


def test_what_is_ignored_stays_ignored() -> None:
    """Only exceptions are taken out: a user's other filters reach the processes that are started."""
    done = started(
        "import sys; sys.exit(sys.warnoptions != ['ignore::DeprecationWarning'])", PYTHONWARNINGS="ignore::DeprecationWarning"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_started_pythons_find_our_modules_wherever_python_looks_not(tmp_path: Path) -> None:
    """PYTHONSAFEPATH with a relative PYTHONPATH; the started one has another working folder."""
    done = started("import validation", PYTHONSAFEPATH="1", PYTHONPATH=".")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("encoding", ["gbk", "utf-8:strict"])
def test_a_letter_that_output_cannot_hold_raises_nothing(encoding: str) -> None:
    """The summary has a red circle, which a Chinese terminal of the old kind has not."""
    says = "from validation.case import interpreter; interpreter.settle(); print(chr(0x1F534))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", says], env=environment, cwd=ROOT, capture_output=True, check=False)
    shown = "\U0001f534" if encoding.startswith("utf-8") else r"\U0001f534"
    assert (done.returncode, done.stdout.decode("utf-8").strip(), done.stderr) == (0, shown, b"")
