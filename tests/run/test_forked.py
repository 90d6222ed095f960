"""The fork server of ranks as a fork of the process that computes references."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from validation.run import forked

_SERVES = """
import os, sys
from validation.run import forked
before = len(os.listdir("/proc/self/fd"))
forked.serve(sys.argv[1])
print("its own", before - len(os.listdir("/proc/self/fd")), flush=True)
sys.stdin.read()
"""
_OFFERED = 5
"""Files that an offer has: kept open, they would have a fork server that was killed look as if it lived."""
_ASKED = """
import contextlib, multiprocessing, os, subprocess, sys, time
from validation.run import forked, launch
from validation.run.references import ReferenceProcess
os.environ["PYTHONPATH"], os.environ["PLUMBLINE_TRANSPORT"] = "given", "gloo"
multiprocessing.set_forkserver_preload(["colorsys"])
started = subprocess.Popen
subprocess.Popen = lambda command, **given: started([command[0], "-c", sys.argv[1], command[-1]], **given)
references = ReferenceProcess()
forks = references.warm_up_with_ranks()
again = ReferenceProcess().warm_up_with_ranks()

def run(code):
    process = multiprocessing.get_context("forkserver").Process(target=exec, args=(code,))
    process.start()
    process.join()
    assert process.exitcode == 0

run("import os, sys; print(os.getppid(), os.environ['PYTHONPATH'], os.read(0, 1), 'colorsys' in sys.modules, flush=True)")
pid = forked.pid()
references.close()
run("import os; print(os.getppid(), flush=True)")
references._said.seek(0)
print(pid, forks, again, references._said.read().strip())
launch._end()
for _ in range(500):  # a connection may still be taken while it dies
    with contextlib.suppress(ConnectionError, EOFError):
        run("import os; print(os.getppid() != %d, flush=True)" % pid)
        break
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("program", "said"), [(_SERVES, ["its", "own", str(_OFFERED)]), ("raise SystemExit(1)", [])], ids=["it serves", "it ends"]
)
def test_ranks_are_forks(program: str, said: list[str]) -> None:
    """They have what whoever asked has imported, its variables and its output, and nothing to read.

    They outlive the process that they come from, which keeps none of their files.

    If that ends before there is a fork server, as where torch cannot be imported, and if the fork server is killed, there is
    another one.
    """
    command = [sys.executable, "-c", _ASKED, program]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    parent, variable, read, imported, later, pid, forks, again, *own, other = done.stdout.split()
    assert parent == later == pid
    assert (variable, read, imported, forks, again, own, other) == ("given", "b''", "True", "True", "False", said, "True")


@pytest.mark.parametrize(
    ("changed", "possible"),
    [
        ({}, True),
        ({"transport": "nccl"}, False),
        ({"version": (3, 14)}, False),
        ({"ignores": 1}, False),
        ({"address": "there"}, False),
        ({"closed": 0}, False),
        ({"closed": 2}, False),
    ],
    ids=str,
)
def test_a_fork_is_possible(changed: dict[str, Any], possible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, before there is a fork server, with all standard streams and the variables that Python is told."""
    given = {"transport": "gloo", "version": (3, 13), "ignores": 0, "address": None, "closed": None, **changed}

    def fstat(number: int) -> None:
        if number == given["closed"]:
            raise OSError

    monkeypatch.setenv("PLUMBLINE_TRANSPORT", given["transport"])
    flags = SimpleNamespace(ignore_environment=given["ignores"])
    monkeypatch.setattr(forked, "sys", SimpleNamespace(version_info=given["version"], flags=flags))
    monkeypatch.setattr(forked, "os", SimpleNamespace(environ=os.environ, fstat=fstat))
    monkeypatch.setattr(forked, "SERVER", SimpleNamespace(_forkserver_address=given["address"]))
    assert forked.possible() is possible
