"""Every kind of case that one GPU can run, in one process and one go: a table of verdicts, worst ratios, times and memory.

    python benchmarks/gpu.py [--out FOLDER] [--seconds 480] [--only local/fp32,te/bf16] [--jobs N]

mini over nccl on one rank, and over staged where ranks share the GPU; tiny in fp64 with two optimizer steps. Small cases that
share the GPU run two at a time, or --jobs at a time: the seconds of a case are those from its start to its end, and what one
more costs is told by the seconds of the whole command. What fails or breaks is written down with its message, and the next one
is run; when time is up, the rest is written down as not run. The folder gets gpu.json, gpu.md and log.txt, each rewritten after
every command. `--rehearse` runs the same on the CPU, with tiny in place of mini. Ends with 0 if everything was run and passed,
with 3 where there is no GPU, else with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ci import junit
from validation import doctor
from validation.case.memory import estimate
from validation.cli import main as command
from validation.machine import gpus
from validation.run.options import parsed

SHARED = "tp2,pp2,ep2,tp2ep2,tp2pp2,tp2etp2"
"""Layouts whose ranks share the GPU."""


@dataclass(frozen=True)
class Group:
    """Cases that have their words in common: one command for one rank over nccl, one for those that share the GPU."""

    implementation: str
    precision: str
    preset: str = "mini"
    shared: str = SHARED
    single: bool = True
    fp8: str = ""

    @property
    def name(self) -> str:
        """`local/fp32`, as --only takes it; other presets are named, too."""
        precision = f"fp8-{self.fp8}" if self.fp8 else self.precision
        return "/".join((*(() if self.preset == "mini" else (self.preset,)), self.implementation, precision))

    def commands(self, rehearse: bool) -> Iterator[list[str]]:
        """The words of each command."""
        preset = "tiny" if rehearse else self.preset
        common = ["--preset", preset, "--implementation", self.implementation, "--precision", self.precision]
        common += ["--fp8", self.fp8] if self.fp8 else []
        if self.single:
            yield [*common, "--layouts", "single", "--transport", "staged-cpu" if rehearse else "nccl"]
        sharing = ["--transport", "staged-cpu"] if rehearse else ["--share-gpu", "4"]
        yield [*common, "--layouts", self.shared, *sharing]


GROUPS = (
    Group("local", "fp64", preset="tiny", shared=f"{SHARED},cp2,dp2+distributed,ep2etp2,pp2vpp2"),
    Group("local", "fp32"),
    Group("te", "bf16"),
    Group("te", "fp32"),
    Group("local", "bf16"),
    Group("local", "fp64"),
    Group("te", "bf16", shared="tp2,pp2,ep2,tp2ep2,dp2", fp8="delayed"),
    Group("te", "bf16", shared="tp2,pp2,ep2,tp2ep2,dp2", fp8="blockwise"),
    Group("te-unfused", "bf16", shared="tp2"),
    Group("te-fused", "bf16", shared="tp2"),
    Group("te-flash", "bf16", shared="tp2"),
)
"""In the order of what is missed most if time runs out."""


@dataclass(frozen=True)
class Row:
    """One case of the table. Memory in MiB: measured on the rank that took most, and estimated for it."""

    case: str
    verdict: str
    checks: int = 0
    failed: int = 0
    known: int = 0
    worst: str = ""
    worst_check: str = ""
    seconds: float = 0.0
    gpu_mib: int = 0
    estimated_mib: int = 0
    message: str = ""


def row(path: Path, name: str, code: int, said: str) -> Row:
    """What a case's JUnit file says; where there is none, what its command said last."""
    try:
        suite = junit.read(path)
    except junit.UnreadableResults:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        return Row(name, f"exit {code}", message=last[:400])
    wrong = [check for check in suite.checks if check.status in ("fail", "error")]
    verdict = "pass" if not wrong else "broken" if all(check.status == "error" for check in wrong) else "fail"
    peaks = [int(value) for key, value in suite.properties.items() if key.endswith("peak_gpu_memory_mib")]
    worst, of = max(((_badness(check), check.name) for check in suite.checks), default=(0.0, ""))
    return Row(
        name,
        verdict,
        len(suite.checks),
        len(wrong),
        sum(check.status == "known" for check in suite.checks),
        f"{worst:.2g}",
        of,
        round(suite.seconds, 2),
        max(peaks, default=0),
        message=" ".join(wrong[0].message.split())[:600] if wrong else "",
    )


def _badness(check: junit.Check) -> float:
    """How near a check's number is to its limit, or how far behind: 1 is the limit."""
    if check.status == "known":
        return 0.0
    error, limit = (float(check.properties.get(key, "0") or 0) for key in ("rel_error", "tolerance"))
    return error / limit if limit else 0.0


def run(words: list[str], out: Path, seconds: float, jobs: Sequence[str] = ()) -> list[Row]:
    """One command, to its end; a row for each of its cases."""
    results, log = out / "junit", out / "log.txt"
    timeout = f"{max(20.0, min(120.0, seconds)):.0f}"
    asked = ["run", *words, *jobs, "--results", str(results), "--no-self-test", "--timeout", timeout]
    cases = parsed(words).cases
    for case in cases:
        (results / f"{case.name}.xml").unlink(missing_ok=True)
    with log.open("a+") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        start = file.tell()
        print("$", *asked, flush=True)
        try:
            code = command(asked)
        except (Exception, SystemExit) as error:  # whatever it is, the next command is run
            code = 1
            print(repr(error), flush=True)
        file.seek(start)
        said = file.read()
    found = [row(results / f"{case.name}.xml", case.name, code, said) for case in cases]
    return [replace(one, estimated_mib=estimate(case).rank >> 20) for one, case in zip(found, cases, strict=True)]


def whole(words: Sequence[str], cases: int, seconds: float) -> str:
    """What a command took from its start to its end, its reference included where that was computed."""
    return f"{' '.join(words)}: {cases} case{'s' * (cases > 1)} in {seconds:.1f} s, {seconds / cases:.1f} s each"


def table(rows: Sequence[Row], facts: dict[str, str], commands: Sequence[str]) -> str:
    """The rows in Markdown, under what the machine is, and above what whole commands took."""
    heads = ("case", "verdict", "checks", "failed", "known", "error / limit", "in", "s", "GPU MiB (estimate)")
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += ["", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in rows:
        numbers = (one.checks, one.failed, one.known, one.worst, one.worst_check, one.seconds)
        cells = (one.case, one.verdict, *numbers, f"{one.gpu_mib} ({one.estimated_mib})")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", *(f"- {one.case}: {one.message}" for one in rows if one.message), *(f"- {one}" for one in commands)]
    return "\n".join(lines) + "\n"


def _facts() -> dict[str, str]:
    wanted = ("torch", "CUDA", "driver", "GPUs", "megatron-core", "transformers", "Transformer Engine", "flash-attn", "apex")
    return {found.name: found.value for found in doctor.findings() if found.name in wanted}


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results") / "gpu", metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no further command is started")
    parser.add_argument("--only", default="", metavar="local/fp32,te/bf16", help="these groups, in this order")
    parser.add_argument("--jobs", type=int, metavar="N", help="cases at a time, in place of what is good here")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny in place of mini")
    return parser.parse_args()


def main() -> int:
    """Run the groups one after the other, and write the table after every command."""
    options = _options()
    known = {group.name: group for group in GROUPS}
    wanted = [word for word in options.only.split(",") if word] or list(known)
    if unknown := [word for word in wanted if word not in known]:
        print(f"--only {unknown[0]} is unknown; known are {', '.join(known)}", file=sys.stderr)
        return 2
    if not (options.rehearse or gpus()):
        print("every case needs a GPU, and none was found; --rehearse runs on the CPU", file=sys.stderr)
        return 3
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PLUMBLINE_CACHE", str(options.out / "cache"))
    facts, rows, commands, start = _facts(), list[Row](), list[str](), time.monotonic()
    for words in (words for name in wanted for words in known[name].commands(options.rehearse)):
        left = options.seconds - (time.monotonic() - start)
        print(f"[{options.seconds - left:5.1f} s] {' '.join(words)}", flush=True)
        if left > 0:
            began = time.monotonic()
            found = run(words, options.out, left, ("--jobs", str(options.jobs)) if options.jobs else ())
            commands.append(whole(words, len(found), time.monotonic() - began))
        else:
            found = [Row(" ".join(words), "not run")]
        for one in found:
            told = f"  {one.verdict:7} {one.case}: {one.checks} checks, {one.failed} wrong, {one.seconds} s, {one.gpu_mib} MiB"
            print(f"{told}{', ' + one.message[:300] if one.message else ''}", flush=True)
        rows += found
        written = {"facts": facts, "rows": [asdict(one) for one in rows], "commands": commands}
        (options.out / "gpu.json").write_text(json.dumps(written, indent=1))
        (options.out / "gpu.md").write_text(table(rows, facts, commands))
        gc.collect()
    print(f"[{time.monotonic() - start:5.1f} s] done: {options.out / 'gpu.md'}")
    return int(any(one.verdict != "pass" for one in rows))


if __name__ == "__main__":
    sys.exit(main())
