"""Two nodes on one machine, beside the same command on one: verdicts, seconds, and what is left when a node is killed.

    python benchmarks/two_nodes.py [--out FOLDER] [--layouts tp2,pp2,ep2] [--transport gloo] [--rounds 3] [words of run ...]

Each node is in a network namespace of its own, if the machine has them (root, the command ip): without, both use the loopback.
Over nccl each node sees one GPU of its own and takes the other for another machine's, so that NCCL goes through the network.
Both commands begin with an empty cache, in turns. Then a node is killed in the middle of a case, while the other node has its
rank wait in a collective. The folder gets two-nodes.json, two-nodes.md and a log for each command. Ends with 0 if
everything passed, and if the run with the killed node ended with exit code 4 and nothing of it was left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu import Row, row
from ci import junit
from tests.nodes.cable import HEAD, SPACES, NoCable, cable
from validation.case.case import ON_CPU
from validation.machine import machine
from validation.run.options import parsed

ROOT = Path(__file__).parents[1]
PORT = 29611
LIMIT = 10.0
"""Seconds that two nodes may take longer than one."""
HOLD = """import os, pathlib, time

def wrapped(case, chunks):
    if os.environ["RANK"] == "1":
        pathlib.Path({told!r}).write_text(str(os.getpid()))
        time.sleep(100000)
"""
"""A plugin: rank 1 stops behind the model's weights, and says so. Rank 0 goes on, and waits for it in a collective."""


@dataclass(frozen=True)
class Where:
    """The words before a node's command, and the address of node 0."""

    prefix: tuple[tuple[str, ...], tuple[str, ...]]
    host: str
    said: str


@dataclass
class Found:
    """What is written down."""

    facts: Mapping[str, str]
    where: str
    rows: list[Row] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    two: list[float] = field(default_factory=list)
    killed: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def places() -> Iterator[Where]:
    """Namespaces, or the loopback and why."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(cable())
            spaces = tuple(("ip", "netns", "exec", name) for name in SPACES)
            found = Where((spaces[0], spaces[1]), HEAD, "two network namespaces with a cable between them")
        except NoCable as error:
            found = Where(((), ()), "127.0.0.1", f"the loopback ({error})")
        yield found


def started(options: Any, where: Where, folder: Path, words: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """Node 0 and node 1, each with a cache and results of its own."""
    folder.mkdir(parents=True)
    found = []
    for rank in (0, 1):
        nodes = ("--nnodes", "2", "--node-rank", str(rank), "--rdzv-endpoint", f"{where.host}:{PORT}")
        own = {} if options.transport in ON_CPU else {"CUDA_VISIBLE_DEVICES": str(rank if options.transport == "nccl" else 0)}
        environment = {**os.environ, **own, "PLUMBLINE_CACHE": str(folder / f"cache-{rank}"), "NCCL_HOSTID": f"node-{rank}"}
        asked = [sys.executable, "-m", "validation", "run", *words, *nodes, "--results", str(folder / f"results-{rank}")]
        with (folder / f"node-{rank}.log").open("wb") as log:
            found.append(
                subprocess.Popen(
                    [*where.prefix[rank], *asked],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    return found


def ended(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> list[int]:
    """Their exit codes; what does not end in time is killed."""
    end = time.monotonic() + seconds
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(max(end - time.monotonic(), 0.1)))
        except subprocess.TimeoutExpired:
            _kill(process)
            codes.append(process.wait())
    return codes


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def on_two(options: Any, where: Where, number: int) -> tuple[float, list[Row]]:
    """One command on two nodes: seconds until both have ended, and a row for each case."""
    folder = options.out / f"two-{number}"
    start = time.monotonic()
    codes = ended(started(options, where, folder, options.words), options.timeout)
    spent = time.monotonic() - start
    said = (folder / "node-0.log").read_text(errors="replace")
    return spent, [row(folder / "results-0" / f"{one.name}.xml", one.name, max(codes), said) for one in options.cases]


def on_one(options: Any, number: int) -> float:
    """The same command on this machine alone: seconds. Raises CalledProcessError if it fails."""
    folder = options.out / f"one-{number}"
    folder.mkdir(parents=True)
    start = time.monotonic()
    with (folder / "log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "validation", "run", *options.words, "--results", str(folder / "results")],
            cwd=ROOT,
            env={**os.environ, "PLUMBLINE_CACHE": str(folder / "cache")},
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=options.timeout,
            check=True,
        )
    return time.monotonic() - start


def with_one_killed(options: Any, where: Where) -> dict[str, Any]:
    """A run of two nodes, of which node 1 is killed while its rank is in the middle: what node 0 says, and what is left."""
    folder = options.out / "killed"
    told = options.out / "rank-1-is-there"
    plugin = options.out / "hold.py"
    plugin.write_text(HOLD.format(told=str(told)))
    processes = started(options, where, folder, [*options.words, "--plugin", str(plugin)])
    end = time.monotonic() + options.timeout
    while not told.exists() and time.monotonic() < end and processes[0].poll() is None:
        time.sleep(0.05)
    start = time.monotonic()
    _kill(processes[1])
    codes = ended(processes, options.timeout)
    spent = time.monotonic() - start
    suites = [junit.read(path) for path in sorted((folder / "results-0").glob("*.xml"))]
    said = [check.message for suite in suites for check in suite.checks if check.status == "error"][:1]
    return {
        "reached": told.exists(),
        "exit code of node 0": codes[0],
        "seconds until it ended": round(spent, 1),
        "said": said[0] if said else "",
        "processes left": _left(folder),
    }


def _left(folder: Path) -> list[str]:
    """Processes that still have a cache of this folder in their environment, a moment later at most."""
    end = time.monotonic() + 10
    while (found := list(_living(folder))) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _living(folder: Path) -> Iterator[str]:
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdecimal() and str(folder).encode() in (place / "environ").read_bytes():
                words = (place / "cmdline").read_bytes().replace(b"\0", b" ")
                yield f"{place.name}: {words[:80].decode(errors='replace')}"


def table(found: Found) -> str:
    """All of it in Markdown."""
    lines = [f"{name}: {value}" for name, value in found.facts.items()] + [f"nodes: {found.where}", ""]
    heads = ("case", "verdict", "checks", "error / limit", "s", "GPU MiB a rank")
    lines += [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in found.rows:
        lines.append(f"| {one.case} | {one.verdict} | {one.checks} | {one.worst} | {one.seconds} | {one.gpu_mib} |")
    lines += ["", *(f"- {one.case}: {one.message}" for one in found.rows if one.message)]
    if found.one and found.two:
        apart = statistics.median(found.two) - statistics.median(found.one)
        lines.append(f"- one node: {_seconds(found.one)}; two nodes: {_seconds(found.two)}; apart: {apart:.1f} s")
    elif found.two:
        lines.append(f"- two nodes: {_seconds(found.two)}")
    lines += [f"- killed node, {name}: {value}" for name, value in found.killed.items()]
    return "\n".join(lines) + "\n"


def _seconds(spent: Sequence[float]) -> str:
    return f"{', '.join(f'{one:.1f}' for one in spent)} s"


def _options(words: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results") / "two-nodes", metavar="FOLDER", help="made anew")
    parser.add_argument("--layouts", default="tp2,pp2,ep2", metavar="LIST")
    parser.add_argument("--transport", default="gloo", metavar="WORD")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="of both commands; 0 for none of one node")
    parser.add_argument("--timeout", type=float, default=240.0, metavar="SECONDS", help="of each command")
    found, more = parser.parse_known_args(words)
    found.words = ["--layouts", found.layouts, "--transport", found.transport, "--no-self-test", *more]
    found.cases = parsed(found.words).cases
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and write the table after each part."""
    options = _options(words)
    options.out = options.out.absolute()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    with places() as where:
        found = Found({name: value for name, value in machine().items() if name != "platform"}, where.said)
        for number in range(max(options.rounds, 1)):
            spent, found.rows = on_two(options, where, number)
            found.two.append(spent)
            if options.rounds:
                found.one.append(on_one(options, number))
            _write(options.out, found)
        found.killed = with_one_killed(options, where)
        _write(options.out, found)
    passed = all(one.verdict == "pass" for one in found.rows)
    apart = statistics.median(found.two) - statistics.median(found.one) if found.one else 0.0
    killed = found.killed["exit code of node 0"] == 4 and not found.killed["processes left"] and found.killed["reached"]
    return int(not (passed and killed and apart <= LIMIT))


def _write(folder: Path, found: Found) -> None:
    (folder / "two-nodes.json").write_text(json.dumps(asdict(found), indent=1))
    (folder / "two-nodes.md").write_text(table(found))
    print(table(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
