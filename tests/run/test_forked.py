"""The fork server of ranks as a fork of the process that computes references."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SERVES = (
    "import sys; from validation.run import forked; forked.serve(sys.argv[1]); print('its own', flush=True); sys.stdin.read()"
)
_ASKED = """
import contextlib, multiprocessing, os, subprocess, sys, time
from validation.run import forked, launch
from validation.run.references import ReferenceProcess
os.environ["PYTHONPATH"], os.environ["PLUMBLINE_TRANSPORT"] = "given", "gloo"
multiprocessing.set_forkserver_preload([])
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

run("import os; print(os.getppid(), os.environ['PYTHONPATH'], os.read(0, 1), flush=True)")
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


def _told(program: str) -> list[str]:
    command = [sys.executable, "-c", _ASKED, program]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("program", "said"), [(_SERVES, ["its", "own"]), ("raise SystemExit(1)", [])], ids=["it serves", "it ends"]
)
def test_ranks_are_forks(program: str, said: list[str]) -> None:
    """They have the variables and the output of whoever asked, nothing to read, and outlive the process that they come from.

    If that ends before there is a fork server, as where torch cannot be imported, and if the fork server is killed, there is
    another one.
    """
    command = [sys.executable, "-c", _ASKED, program]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    parent, variable, read, later, pid, forks, again, *own, other = done.stdout.split()
    assert parent == later == pid
    assert (variable, read, forks, again, own, other) == ("given", "b''", "True", "False", said, "True")
