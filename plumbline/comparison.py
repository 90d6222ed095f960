"""`check`: a comparison in a process of its own, and its report.

The process is the command `plumbline run`, which writes JSON (docs/json.md). Nothing of it happens in the process that calls:
no torch, no fork of a notebook's kernel, and no trace of pytest, whose variables do not count.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any, Unpack

from plumbline import place, read
from plumbline.commands import FOLDERS
from plumbline.errors import EnvironmentMissing, PlumblineError, RunBroke, UsageError
from plumbline.options import Options, Words, words
from plumbline.report import Report

_RAISED = {error.exit_code: error for error in (UsageError, EnvironmentMissing, RunBroke)}
_ERROR = "error: "
_INTERRUPTED = 130
_PATIENCE = 10.0
"""Seconds that an interrupted run has to end its ranks."""
_COLOURS = ("PY_COLORS", "FORCE_COLOR")
_START = "from plumbline.commands import main; main()"


def check(layouts: Words | None = None, *, progress: bool = False, **options: Unpack[Options]) -> Report:
    """Compare the Megatron-Core model with the HuggingFace model under these layouts.

    `layouts` is one, such as `"tp2"` or `"tp2+distributed"`, or several; None is one rank. The other keywords are the options
    of `plumbline run` (`plumbline run --help`). A layer spec may be given as a function of an importable module. With
    `progress` the process says on standard error what it does. JUnit files are kept only if `results` names a folder.

    Raises UsageError for what can never run, EnvironmentMissing for what cannot run here, RunBroke for a run that did not
    finish, and PlumblineError for a defect of Plumbline. A comparison that fails raises nothing: `report.passed` is False.
    """
    given: dict[str, Any] = {"layouts": layouts, **options}
    if given.get("results") is not None:
        return _report(_run(words(given), progress), keep=True)
    with tempfile.TemporaryDirectory(prefix="plumbline-results-", ignore_cleanup_errors=True) as folder:
        if given.get("last_failed"):
            raise UsageError("last_failed reads the reports of an earlier run; give its folder as results")
        return _report(_run(words({**given, "results": folder}), progress, hidden=("JUnit: ",)), keep=False)


def _run(asked: list[str], progress: bool, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """The document of a run. Raises RunBroke if there is none. Lines that begin with one of `hidden` are no progress."""
    command = [sys.executable, "-P", "-c", _START, "run", "--format=json", "-v", *asked]
    process = subprocess.Popen(
        command, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said: list[str] = []
    listening = threading.Thread(target=_listen, args=(process.stderr, said, hidden if progress else None), daemon=True)
    try:
        listening.start()
        written = process.stdout.read() if process.stdout else b""
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    listening.join(_PATIENCE)
    try:
        document: dict[str, Any] = json.loads(written)
    except ValueError:
        raise _without_results(code, said) from None
    return document


def _without_results(code: int, said: list[str]) -> PlumblineError:
    """Of a process that has written no document: by a rule about what surrounds it, or in a way that nobody foresaw."""
    last = next((line for line in reversed(said) if line.strip()), "it said nothing").strip()
    if code in _RAISED and last.startswith(_ERROR):
        return _RAISED[code](last.removeprefix(_ERROR))
    return RunBroke(f"the comparison ended with exit status {code} and without results ({last})")


def _environment() -> dict[str, str]:
    """What the process gets: this package on its import path, and last the folders that modules are imported from here.

    Lines that are read here have no colours, whatever a notebook's kernel asks for.
    """
    path = [_absolute(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    folders = [_absolute(folder) for folder in sys.path]
    kept = {name: value for name, value in os.environ.items() if name not in _COLOURS}
    return {
        **kept,
        "NO_COLOR": "1",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([*path, os.path.dirname(place.HERE)])),
        FOLDERS: os.pathsep.join(folders),
    }


def _absolute(folder: str) -> str:
    """The folder as it is if the working folder is gone, about which the process has a sentence."""
    try:
        return os.path.abspath(folder)
    except OSError:
        return folder


def _listen(stream: IO[bytes] | None, said: list[str], hidden: tuple[str, ...] | None) -> None:
    """Keep all lines; repeat them here, but for those that begin with one of `hidden`, or all if that is None."""
    for line in stream or ():
        said.append(line.decode(errors="replace"))
        if hidden is not None and not said[-1].startswith(hidden):
            sys.stderr.write(said[-1])
            sys.stderr.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have it end its ranks. In a terminal it has been interrupted, too; in a notebook it has not."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    process.kill()
    process.wait()


def _report(document: Mapping[str, Any], keep: bool) -> Report:
    """The report of a document. Raises what its exit code means."""
    report = read.report(document, keep) if "suites" in document else None
    code = int(document["exit_code"])
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    if report is not None and code in (0, 1):
        return report
    sentence = document.get("error") or (report and report.first_failure and str(report.first_failure)) or "the run broke"
    raise _RAISED.get(code, PlumblineError)(sentence, report)
