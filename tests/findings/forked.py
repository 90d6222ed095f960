"""Runs scripts of pages in forks of one process that has imported torch and megatron-core, as `torchrun` would start them.

`python -m tests.findings.forked SCRIPT:RANKS ...`: rank N of a script leaves what it prints in `N.stdout` and `N.stderr`
beside the script, and its exit code in `N.code`. Importing torch and megatron-core takes most of a script's time, and
torchrun does it in each rank.
"""

from __future__ import annotations

import ast
import importlib
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]


def imports_first(script: str) -> Iterator[str]:
    """The modules that the script imports before it does anything else."""
    for statement in ast.parse(script).body:
        if isinstance(statement, ast.Import):
            yield from (name.name for name in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module is not None:
            yield statement.module
        else:
            return


def can_fork(script: str) -> bool:
    """Whether torch and megatron-core may be there already when it starts: it does nothing before it imports them."""
    return any(name.startswith("megatron.core") for name in imports_first(script))


def _forked(does: Callable[[], None]) -> int:
    """The process that does it and ends: with 1 if it raises."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        does()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _script(script: Path, ranks: int, port: int) -> None:
    """All ranks of one script, to their end. It finds nothing of Plumbline's, as beside a page."""
    sys.path[:] = [str(script.parent), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in imports_first(script.read_text(encoding="utf-8")):
        importlib.import_module(name)
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    children = {_forked(lambda rank=rank: _rank(script, rank, environment)): rank for rank in range(ranks)}  # type: ignore[misc]
    while children:
        child, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        (script.parent / f"{children.pop(child)}.code").write_text(str(code), encoding="utf-8")
        for other in children if code else ():
            os.kill(other, signal.SIGKILL)  # it would wait for the one that is gone


def _rank(script: Path, rank: int, environment: dict[str, str]) -> None:
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.chdir(script.parent)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        opened = os.open(f"{rank}.{name}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
    sys.argv = [script.name]
    runpy.run_path(str(script), run_name="__main__")


def main(wanted: Iterable[tuple[Path, int]], at_once: int) -> None:
    """Run these scripts, so many at a time."""
    import megatron.core  # noqa: F401 - for the scripts
    import torch

    torch.set_num_threads(1)  # no fork of a process with a pool of threads
    running = 0
    for script, ranks in wanted:
        if running == at_once:
            os.wait()
            running -= 1
        port = free_port()  # not in the fork, which does not know what others were given
        _forked(lambda script=script, ranks=ranks, port=port: _script(script, ranks, port))  # type: ignore[misc]
        running += 1
    while running:
        os.wait()
        running -= 1


if __name__ == "__main__":
    pairs = (word.rpartition(":") for word in sys.argv[1:])
    main(((Path(script), int(ranks)) for script, _, ranks in pairs), os.cpu_count() or 1)
