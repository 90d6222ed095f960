"""A launch script, run with stand-ins for what would train: they write down how they were called, and end well.

The script itself runs, with all that it does beside the training: it must be trusted.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.plural import many
from validation.case.strangers import one_line, shown
from validation.case.suggestions import join
from validation.recipe import parser
from validation.recipe.programs import record
from validation.recipe.read import PYTHON
from validation.recipe.watch import Watch
from validation.recipe.words import SECRET, Command, Word, command

_PROGRAMS = Path(record.__file__).parent
_PYTHONS = ("python", "python3", *(f"python3.{minor}" for minor in range(8, 16)))
_FEWEST = 3
"""Flags that set a field: a call with fewer trains no model of Megatron-Core."""
_NOT_FOUND = 127
"""The exit code of a shell that does not find a program."""
_SILENT = re.compile(r"\++ |Try '.* --help' for more information")
"""Lines that say nothing of why a script ended."""
_TAIL = 1 << 16
"""Bytes at the end of what a script writes."""
_GRACE = 10.0
"""Seconds for what a script has left in the background."""
_RANK = re.compile(r"--(?:node[-_]rank|master[-_]addr|master[-_]port|rdzv[-_](?:id|endpoint|conf))")
"""Options of torchrun that differ from node to node, or from run to run."""


@dataclass(frozen=True)
class Call:
    """How a program was called; `ranks` is what Slurm or MPI would start of it, 0 where neither does."""

    words: tuple[str, ...]
    kind: str
    environment: tuple[tuple[str, str], ...]
    ranks: int

    @property
    def command(self) -> Command:
        """Its parts."""
        return command([Word(word, "") for word in self.words])

    @property
    def fields(self) -> int:
        """How many of its flags set a field, in any release."""
        known = _flags()
        return sum(word.text.partition("=")[0].replace("_", "-") in known for word in self.command.words)


@dataclass(frozen=True)
class Captured:
    """What a script has called, how it ended, the last line of its errors or else output, and programs that are not here."""

    calls: tuple[Call, ...]
    code: int
    last: str
    absent: tuple[str, ...] = ()


@functools.cache
def _flags() -> frozenset[str]:
    """Every flag of any release whose argument is a field."""
    found: set[str] = set()
    for name in parser.releases():
        one = parser.release(name)
        for flag, option in one.by_flag.items():
            if option.dest in one.field_names:
                found |= {flag, "--" + option.dest.replace("_", "-")}
    return frozenset(found)


def capture(script: Sequence[str], timeout: float) -> Captured:
    """Run a command with the stand-ins in front of everything else.

    Raises UsageError if it cannot be started, EnvironmentMissing if it does not end within `timeout` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="plumbline-capture-") as name:
        folder = Path(name)
        _prepare(folder)
        code, ended = _run(script, folder, timeout)
        last = _last(folder / "errors") or _last(folder / "output")
        calls = list(_calls(folder))
        # A process that was ended although it wrote its own call down is one call.
        wrote = {process for process, _ in calls}
        unreached = (Call(words, "python", (), 0) for process, words in ended if process not in wrote)
        return Captured((*(call for _, call in calls), *unreached), code, last, tuple(_absent(folder)))


def _last(file: Path) -> str:
    """The last line of a file that says something: neither what `set -x` prints nor where help is."""
    with open(file, "rb") as opened:
        opened.seek(max(opened.seek(0, os.SEEK_END) - _TAIL, 0))
        text = opened.read().decode("utf-8", "replace")
    said = (line for line in reversed(text.splitlines()) if line.strip() and not _SILENT.match(line))
    return one_line(next(said, ""))


def _prepare(folder: Path) -> None:
    """The folder of one capture: stand-ins in bin, what every Python reads in site, an empty one for calls."""
    for part in ("bin", "site", "calls"):
        (folder / part).mkdir()
    (folder / "before.json").write_text(
        json.dumps({name: value for name, value in os.environ.items() if record.KEPT.fullmatch(name)})
    )
    shutil.copy(_PROGRAMS / "sitecustomize.py", folder / "site" / "sitecustomize.py")
    # Every Python of the script looks here first: the name must be nobody else's.
    shutil.copy(_PROGRAMS / "record.py", folder / "site" / "plumbline_record.py")
    shutil.copy(_PROGRAMS / "bash_env.sh", folder / "bash_env.sh")
    runs = f"exec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(folder / 'site' / 'plumbline_record.py'))}"
    for name in (*_PYTHONS, *record.TRAINING, *record.STARTING, *record.SILENT, *record.ANSWERS):
        standin = folder / "bin" / name
        standin.write_text(f'#!/bin/sh\n{runs} {name} "$@"\n')
        standin.chmod(0o755)


def _surroundings(script: Sequence[str], folder: Path) -> dict[str, str]:
    """The environment of a script. No GPU is seen: what should start all the same, finds nothing to train on."""
    found = {**_of_sbatch(script), **os.environ}
    before = {"PATH": folder / "bin", "PYTHONPATH": folder / "site"}
    for name, place in before.items():
        found[name] = os.pathsep.join([str(place), *filter(None, [found.get(name, "")])])
    found |= {"BASH_ENV": str(folder / "bash_env.sh"), "PLUMBLINE_CAPTURE": str(folder), "PLUMBLINE_PYTHON": sys.executable}
    return found


def _of_sbatch(script: Sequence[str]) -> dict[str, str]:
    """The variables of Slurm that lines for sbatch say, of a script that runs without it; sbatch reads them itself."""
    if Path(script[0]).name in record.BATCH:
        return {}
    texts = (Path(word).read_text(errors="replace") for word in script if Path(word).suffix != ".py" and _is_small(word))
    lines = (line for text in texts for line in text.splitlines() if line.startswith("#SBATCH"))
    said = "".join(" " + line[len("#SBATCH") :].strip() for line in lines)
    found = {name: match[1] for pattern, name in record.SIZES if (match := pattern.search(said))}
    return found | ({"SLURM_JOB_NUM_NODES": found["SLURM_NNODES"]} if "SLURM_NNODES" in found else {})


def _is_small(word: str) -> bool:
    """Whether this is a file such as a script."""
    try:
        return os.path.isfile(word) and os.path.getsize(word) < _TAIL
    except (OSError, ValueError):
        return False


def _run(script: Sequence[str], folder: Path, timeout: float) -> tuple[int, list[tuple[int, tuple[str, ...]]]]:
    """Run the script to its end and end what it has left behind. Returns its exit code, and the processes that were ended."""
    surroundings = _surroundings(script, folder)
    found = shutil.which(script[0], path=surroundings["PATH"])
    if found is None:
        raise UsageError(f"{shown(script[0])} is no program here; give the command that starts your training: bash run.sh")
    with open(folder / "errors", "wb") as errors, open(folder / "output", "wb") as output:
        running = subprocess.Popen(
            [found, *script[1:]],
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        watch = Watch(running.pid, folder)
        watch.start()
        try:
            code = running.wait(timeout)
            _wait_for_the_rest(running.pid)
        except subprocess.TimeoutExpired:
            raise EnvironmentMissing(
                f"{shown(shlex.join(script))} did not end within {timeout:.0f} s; give it longer with --timeout, "
                "or leave out what takes long"
            ) from None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            watch.stop()
    return code, watch.found


def _wait_for_the_rest(group: int) -> None:
    """Wait for what the script has left in the background, for a while."""
    end = time.monotonic() + _GRACE
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.02)


def _calls(folder: Path) -> Iterator[tuple[int, Call]]:
    """What the stand-ins wrote down, in the order of time, each with its process."""
    for file in sorted((folder / "calls").glob("*.json")):
        said = json.loads(file.read_text())
        variables = tuple(sorted((str(name), str(value)) for name, value in said["environment"].items()))
        process = int(file.stem.rpartition("-")[2])
        yield process, Call(tuple(said["words"]), str(said["kind"]), variables, int(said["ranks"]))


def _absent(folder: Path) -> Iterator[str]:
    """The programs that bash did not find, each once."""
    file = folder / "absent"
    if file.is_file():
        yield from dict.fromkeys(map(shown, file.read_text(encoding="utf-8", errors="replace").splitlines()[:1000]))


def trainings(captured: Captured) -> tuple[Call, ...]:
    """The calls that train a model of Megatron-Core, those that say the same once."""
    found: dict[tuple[str, ...], Call] = {}
    for call in captured.calls:
        if call.kind in ("training", "python") and call.fields >= _FEWEST:
            found.setdefault(_alike(call.words), call)
    return tuple(found.values())


def _alike(words: Sequence[str]) -> tuple[str, ...]:
    """The words without what differs from node to node."""
    kept: list[str] = []
    skips = False
    for word in words:
        if skips:
            skips = False
        elif _RANK.match(word):
            skips = "=" not in word
        else:
            kept.append(word)
    return tuple(kept)


def chosen(captured: Captured, number: int | None, script: str) -> Call:
    """The call that is the recipe. Raises UsageError where the script started no training, or several that differ."""
    found = trainings(captured)
    if not found:
        raise UsageError(f"{shown(script)} {_why_nothing(captured)}")
    if number is not None and not 1 <= number <= len(found):
        raise UsageError(f"--call {number}: the script starts {len(found)}; give a number from 1 to {len(found)}")
    if number is None and len(found) > 1:
        said = "; ".join(f"{place} is {_named(call)}{_unlike(found[0], call)}" for place, call in enumerate(found, 1))
        raise UsageError(f"{shown(script)} starts {many(len(found), 'training')}; choose with --call N: {said}")
    return found[(number or 1) - 1]


def _named(call: Call) -> str:
    return shown(f"{call.command.program or call.words[0]} with {many(len(call.command.words), 'word')}")


def _unlike(first: Call, call: Call) -> str:
    """The first flags of a call that another does not have."""
    lines = list(_one_a_line(first.command.words))
    own = [line for line in _one_a_line(call.command.words) if line not in lines]
    return f" ({shown(', '.join(own))})" if own else ""


def _why_nothing(captured: Captured) -> str:
    calls = [_named(call) for call in captured.calls if call.kind in ("training", "python")]
    idle = dict.fromkeys(call.words[0] for call in captured.calls if call.kind == "silent")
    ended = f"ended with {captured.code}" if captured.code else "ended well"
    said = f"{ended} and started no training of Megatron-Core"
    said += f" ({', '.join(calls[:3])})" if calls else f" ({join(list(idle)[:3])} did nothing here)" if idle else ""
    remedy = "give the command that starts the training"
    if any(call.kind == "python" and not call.fields for call in captured.calls):
        remedy += f". If that is a program in Python, it is not followed: {PYTHON}"
    if captured.code:
        remedy = "give it the arguments and variables that it needs"
    if captured.absent and (captured.code == _NOT_FOUND or any(name.startswith("-") for name in captured.absent)):
        remedy = f"it {lacks(captured)}"
    return f"{said}; {remedy}" + (f". Its last line: {captured.last}" if captured.last else "")


def lacks(captured: Captured) -> str:
    """What the script calls that this machine does not have, and what to do about it."""
    if flags := [name for name in captured.absent if name.startswith("-")]:
        return f"runs {join(flags[:5])} as a command of its own: end the line before it with a backslash"
    names = captured.absent[:5]
    are, print_ = ("is", "it prints") if len(names) == 1 else ("are", "they print")
    return (
        f"calls {join(names)}, which {are} not on this machine; if a flag depends on what {print_}, such as the number of "
        "GPUs, write that into the script"
    )


def written(call: Call, captured: Captured, script: str) -> str:
    """The call as a file of flags that `recipe show` reads: one flag a line, values of secrets left out."""
    parts = call.command
    lines = [f"# What `{one_line(script)}` starts, written by `recipe capture`"]
    others = [other for other in captured.calls if other is not call and other.kind in ("training", "python")]
    lines += [f"# not run, too: {one_line(shlex.join(other.words[:6]))}" for other in others[:20]]
    if captured.code:
        lines.append(f"# the script ended with {captured.code}: {captured.last}")
    variables = dict(call.environment) | (_world(call, parts) if call.ranks else {})
    first = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    first += [shlex.quote(word.text) for word in parts.launcher]
    program = parts.program.removeprefix("-m ")
    head = " ".join([*first, *([shlex.quote(program)] if program else [])])
    return "\n".join([*lines, " \\\n  ".join([head, *_one_a_line(parts.words)])]) + "\n"


def _world(call: Call, parts: Command) -> dict[str, str]:
    """The number of ranks where no launcher says it: Slurm's tasks."""
    launched = any(
        "torch.distributed" in word.text or word.text.rpartition("/")[2] in record.TRAINING for word in parts.launcher
    )
    return {} if launched else {"WORLD_SIZE": str(call.ranks)}


def _one_a_line(words: Sequence[Word]) -> Iterator[str]:
    line: list[str] = []
    for word in words:
        if word.is_flag and line:
            yield " ".join(_without_secrets(line))
            line = []
        line.append(word.text)
    if line:
        yield " ".join(_without_secrets(line))


def _without_secrets(line: Sequence[str]) -> list[str]:
    name, joined, _ = line[0].partition("=")
    if SECRET.fullmatch(name):
        return [name + joined + "***"] if joined else [name, *("***" for _ in line[1:])]
    return [shlex.quote(word) for word in line]
