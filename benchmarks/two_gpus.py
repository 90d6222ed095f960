"""What only several GPUs can show, each case over nccl and over staged: a table of both beside each other.

    python benchmarks/two_gpus.py [--out FOLDER] [--only steps-te,steps] [--jobs 6] [--timeout 150]
                                  [--transports staged] [-- words]

Over nccl each rank has a GPU, over staged all are on the first one. `--jobs` groups run at the same time, each over both
transports side by side: nothing here measures speed. Says of each case both verdicts, worst ratios, seconds and memory, and
how far apart both runs are, as benchmarks/transports.py does. A case that only nccl can run stands beside its like without that
setting. Words behind -- are for each run. The folder gets two-gpus.json and two-gpus.md, rewritten after each group, and a log
for each command. `--rehearse` runs what a CPU can, gloo beside staged-cpu, with tiny in place of mini. Ends with 0 if every
case was run and passed over both with the same verdicts, else with 1.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu import Row, row
from benchmarks.transports import Pair, beside, line
from ci import junit
from validation.machine import gpus, machine
from validation.run.options import parsed

ROOT = Path(__file__).parents[1]
FIRST, SECOND = "nccl", "staged"
_OVERLAP = "distributed+ddp.overlap_grad_reduce+ddp.overlap_param_gather"


@dataclass(frozen=True)
class Group:
    """Cases of one command over each transport. `alike` are the layouts over staged, where those over nccl cannot run."""

    name: str
    layouts: tuple[str, ...]
    words: tuple[str, ...]
    alike: tuple[str, ...] = ()
    preset: str = "mini"

    def command(self, transport: str, rehearse: bool, more: Sequence[str] = ()) -> list[str]:
        """The words behind `run`; `more` are of the user."""
        layouts = self.alike if self.alike and transport == SECOND else self.layouts
        preset = "tiny" if rehearse else self.preset
        if rehearse:
            way = ["--transport", "gloo" if transport == FIRST else "staged-cpu"]
        else:
            way = ["--transport", FIRST] if transport == FIRST else ["--share-gpu", "4"]
        return ["--preset", preset, *self.words, *more, "--layouts", ",".join(layouts), *way]


def _levels(cp: int, sizes: str) -> str:
    return f"cp{cp}+cp_comm_type=a2a+p2p+hierarchical_context_parallel_sizes={sizes}"


_STEPS = (
    "dp2+distributed",
    f"dp2+{_OVERLAP}",
    f"dp2+{_OVERLAP}+ddp.bucket_size=100000",
    "dp2+ddp.overlap_grad_reduce",
    "ep2+distributed",
    "pp2+mtp",
)
_LIVES = ("tp2+step-resume-pp2-step", "dp2+distributed+step-resume-tp2-step", "ep2+step-resume-step")
_RING = "cp2+cp_comm_type=p2p"
_EXPERTS = ("ep2+moe_shared_expert_overlap", "ep2+overlap_moe_expert_parallel_comm")
_TE = ("--implementation", "te", "--precision", "bf16")
_DATA = ("--batch-size", "8", "--micro-batch-size", "1")
_PACKED = ("cp2+packed-padded", "tp2+packed", "ep2+packed")
_INFERENCE = ("tp2+static", "pp2+static", "ep2+static")
GROUPS = (
    Group("steps-te", _STEPS, (*_TE, *_DATA, "--steps", "2")),
    Group(
        "context-te",
        (_RING, _levels(2, "[1,2]")),
        (*_TE, *_DATA),
        # Over staged no GPU is a rank's own, and four ranks have both levels.
        alike=(_RING, _levels(4, "[2,2]")),
    ),
    Group("communication-te", ("tp2+tp_comm_overlap", *_EXPERTS), (*_TE, *_DATA), alike=("tp2", *_EXPERTS)),
    Group("lives-te", _LIVES, (*_TE, *_DATA)),
    Group("packed-te", _PACKED, _TE),
    Group("inference-te", _INFERENCE, ("--inference", *_TE)),
    Group("steps", _STEPS, ("--precision", "bf16", *_DATA, "--steps", "2")),
    Group("lives", _LIVES, ("--precision", "bf16", *_DATA)),
    Group("local", (*_EXPERTS, "ep2"), ("--precision", "bf16", *_DATA)),
    Group("inference", _INFERENCE, ("--inference", "--precision", "fp64"), preset="tiny"),
    Group("packed", ("cp2+packed-padded",), ("--precision", "bf16")),
)
"""In the order of what is missed most if time runs out."""
RANKS = 2


def run(group: Group, transport: str, options: Any) -> list[tuple[Row, Sequence[junit.Check]]]:
    """One command, to its end: of each of its layouts a row, and the checks."""
    words = group.command(transport, options.rehearse, options.more)
    results = options.out / f"{group.name}-{transport}"
    asked = ["run", *words, "--results", str(results), "--no-self-test", "--timeout", str(options.timeout)]
    own = {} if options.rehearse or transport == FIRST else {"CUDA_VISIBLE_DEVICES": "0"}
    with (options.out / f"{group.name}-{transport}.log").open("w") as log:
        print("$", *(f"{name}={value}" for name, value in own.items()), *asked, file=log, flush=True)
        code = _ended(asked, {"PLUMBLINE_CACHE": str(options.out / "cache"), **os.environ, **own}, log, options.timeout)
    said = (options.out / f"{group.name}-{transport}.log").read_text()
    found: list[tuple[Row, Sequence[junit.Check]]] = []
    for case in parsed(words).cases:
        path = results / f"{case.name}.xml"
        one = row(path, case.name, code, said)
        found.append((one, junit.read(path).checks if one.checks else ()))
    return found


def _ended(asked: Sequence[str], environment: Mapping[str, str], log: Any, timeout: float) -> int:
    """The command's exit code; 124 if it does not end though its time is up, as it should."""
    process = subprocess.Popen(
        [sys.executable, "-m", "validation", *asked], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        return process.wait(3 * timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 124


def both(group: Group, options: Any) -> list[Pair]:
    """The cases of a group, over each transport that was asked for."""
    wanted = [transport for transport in (FIRST, SECOND) if transport in options.transports.split(",")]
    nothing = [(Row("", "not run"), ())] * len(group.layouts)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ways = [pool.submit(run, group, transport, options) for transport in wanted]
        found = {transport: way.result() for transport, way in zip(wanted, ways, strict=True)}
    ours, theirs = (found.get(transport, nothing) for transport in (FIRST, SECOND))
    return [beside(*rows, *checks) for rows, checks in _zipped(ours, theirs)]


def _zipped(ours: Sequence[Any], theirs: Sequence[Any]) -> Iterator[tuple[tuple[Row, Row], tuple[Any, Any]]]:
    for (first, checks), (second, others) in zip(ours, theirs, strict=True):
        yield (first, second), (checks, others)


def facts() -> dict[str, str]:
    """What the table was measured with."""
    found = {name: value for name, value in machine().items() if name not in ("platform",)}
    variables = ("NCCL_NVLS_ENABLE", "UB_SKIPMC")
    return found | {"variables": " ".join(f"{name}={os.environ[name]}" for name in variables if name in os.environ)}


def table(pairs: Mapping[str, Sequence[Pair]], about: Mapping[str, str], seconds: float) -> str:
    """The pairs in Markdown: the first number of each cell over nccl, the second over staged."""
    heads = ("case", "verdicts", "checks", "error / limit", "s", "MiB a rank", "same to the bit", "apart, in floors", "at")
    lines = [f"{name}: {value}" for name, value in about.items() if value]
    lines += [f"all in {seconds:.0f} s", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    whole = [pair for found in pairs.values() for pair in found]
    lines += [*map(line, whole), ""]
    lines += [f"- {one.case}: {one.message}" for pair in whole for one in (pair.nccl, pair.staged) if one.message]
    lines += [f"- {pair.nccl.case}: other verdicts in {pair.other_verdicts}" for pair in whole if pair.other_verdicts]
    return "\n".join(lines) + "\n"


def _options(words: Sequence[str] | None = None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results") / "two-gpus", metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="steps-te,steps", help="these groups, in this order")
    parser.add_argument("--jobs", type=int, default=6, metavar="N", help="groups at a time, each over both")
    parser.add_argument("--timeout", type=float, default=150.0, metavar="SECONDS", help="of a case, and of a reference")
    parser.add_argument("--transports", default=f"{FIRST},{SECOND}", metavar="LIST", help="leave one out")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU: gloo beside staged-cpu, and tiny for mini")
    options, more = parser.parse_known_args(words)
    options.more = [word for word in more if word != "--"]
    return options


def chosen(options: Any) -> list[Group]:
    """The groups that were asked for. Raises SystemExit for one that is not there."""
    known = {group.name: group for group in GROUPS if not (options.rehearse and "te" in group.words)}
    wanted = [name for name in options.only.split(",") if name] or list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"--only {unknown[0]} is unknown; known are {', '.join(known)}")
    return [known[name] for name in wanted]


def main(words: Sequence[str] | None = None) -> int:
    """Run the groups, several at a time, and write the table after each."""
    options = _options(words)
    options.out = options.out.absolute()
    if FIRST in options.transports.split(",") and not options.rehearse and gpus() < RANKS:
        said = f"nccl needs {RANKS} GPUs, and {gpus()} were found; --transports {SECOND} needs one, --rehearse none"
        print(said, file=sys.stderr)
        return 3
    groups = chosen(options)
    options.out.mkdir(parents=True, exist_ok=True)
    about, start, writing = facts(), time.monotonic(), threading.Lock()
    pairs: dict[str, list[Pair]] = {}

    def measured(group: Group) -> None:
        found = both(group, options)
        with writing:
            pairs[group.name] = found
            spent = time.monotonic() - start
            for pair in found:
                print(f"[{spent:5.1f} s] {line(pair)}", flush=True)
            inorder = {one.name: pairs[one.name] for one in groups if one.name in pairs}
            written = {"facts": about, "pairs": {name: [asdict(one) for one in some] for name, some in inorder.items()}}
            (options.out / "two-gpus.json").write_text(json.dumps(written, indent=1))
            (options.out / "two-gpus.md").write_text(table(inorder, about, spent))

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(measured, groups))
    return int(not all(pair.agrees for found in pairs.values() for pair in found))


if __name__ == "__main__":
    sys.exit(main())
