"""The process that computes references: one for all of them, and what becomes of a reference that cannot be had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.reference import store
from validation.run import watch
from validation.run.launch import Broken, RunBroke
from validation.run.references import ReferenceProcess

CASE = Case(
    preset="tiny",
    model=replace(TINY.model, num_hidden_layers=1),
    layout=Layout(),
    precision="fp64",
    implementation="local",
    transport="gloo",
    seed=1,
    batch_size=2,
    micro_batch_size=1,
    seq_length=8,
)


@pytest.fixture(scope="module")
def process() -> Iterator[ReferenceProcess]:
    """One for all tests that leave it able to go on: it imports for five seconds."""
    found = ReferenceProcess()
    yield found
    found.close()


@pytest.fixture
def fresh() -> Iterator[ReferenceProcess]:
    """One that has not started yet."""
    found = ReferenceProcess()
    yield found
    found.close()


def compute(process: ReferenceProcess, case: Case, folder: Path, timeout: float = 600.0) -> None:
    """The reference of `case` below `folder`, what a rank leaves behind beside it."""
    left = folder / "left"
    left.mkdir(exist_ok=True)
    for path in left.iterdir():
        path.unlink()
    process.compute(case, folder / "home", left, timeout, lambda step: None)


def test_one_process_computes_all_references(process: ReferenceProcess, tmp_path: Path) -> None:
    """The second is computed where the first was."""
    first = process.warm_up()
    for seed in (1, 2):
        case = replace(CASE, seed=seed)
        compute(process, case, tmp_path)
        assert store.find(case, tmp_path / "home") is not None
    assert process.warm_up() is first


def test_a_reference_that_was_begun_is_waited_for(
    process: ReferenceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is computed once, and tells who waits what it does."""
    computed, compute = [], process.compute

    def counted(case: Case, *given: Any) -> None:
        computed.append(case)
        compute(case, *given)

    monkeypatch.setattr(process, "compute", counted)
    process.begin(CASE, tmp_path, 600.0)
    process.had(CASE, tmp_path, 600.0, lambda step: None)
    assert store.find(CASE, tmp_path) is not None
    assert (computed, process._begun) == ([CASE], {})


def test_what_was_begun_for_one_store_is_not_taken_for_another(process: ReferenceProcess, tmp_path: Path) -> None:
    process.begin(CASE, tmp_path / "one", 600.0)
    process.had(CASE, tmp_path / "other", 600.0, lambda step: None)
    assert store.find(CASE, tmp_path / "other") is not None


def test_a_process_that_was_started_for_what_was_begun_goes_on(fresh: ReferenceProcess, tmp_path: Path) -> None:
    """The kernel ends a process with the thread that has started it."""
    fresh.begin(CASE, tmp_path, 600.0)
    fresh.had(CASE, tmp_path, 600.0, lambda step: None)
    process = fresh.warm_up()
    time.sleep(0.1)
    assert process.poll() is None


def test_what_was_begun_in_vain_says_so_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the words of one that was not begun; whoever is told of its steps is told from then on."""
    process, asked = ReferenceProcess(), threading.Event()

    def fails(case: Case, home: Path, folder: Path, timeout: float, progress: Callable[[str], None]) -> None:
        assert asked.wait(60)
        progress("truth")
        raise RunBroke(Broken(0, "rank 0 raised an error", ""))

    def told(step: str) -> None:
        said.append(step)

    said: list[str] = []
    monkeypatch.setattr(process, "compute", fails)
    process.begin(CASE, tmp_path, 600.0)
    begun = process._begun[store.key(CASE), tmp_path]
    begun._listening = lambda step: pytest.fail("nobody has asked yet")
    done = begun._done.result

    def result() -> None:
        asked.set()
        done()

    monkeypatch.setattr(begun._done, "result", result)
    with pytest.raises(RunBroke, match="rank 0 raised an error"):
        process.had(CASE, tmp_path, 600.0, told)
    assert said == ["truth"]


def test_closing_ends_what_was_begun(fresh: ReferenceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its folder is gone: nobody else would take it away."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fresh.begin(CASE, tmp_path / "home", 600.0)
    begun = fresh._begun[store.key(CASE), tmp_path / "home"]
    while not list(tmp_path.glob("plumbline-*")):
        time.sleep(0.01)
    fresh.close()
    assert begun._done.done()
    assert list(tmp_path.glob("plumbline-*")) == []
    assert store.find(CASE, tmp_path / "home") is None


ENDS_EARLY = """
import atexit, os, pathlib, sys, time
from validation.case.case import Case
from validation.run.references import ReferenceProcess
place = pathlib.Path(sys.argv[1])
ReferenceProcess().begin(Case.from_json(sys.argv[2]), place / "home", 600.0)
while not list(place.glob("plumbline-*")):
    time.sleep(0.01)
atexit._run_exitfuncs()
os._exit(0)
"""


def test_what_was_begun_ends_with_a_command_that_never_asks(tmp_path: Path) -> None:
    """One that was interrupted, say: as validation.__main__ ends it."""
    command = [sys.executable, "-c", ENDS_EARLY, str(tmp_path), CASE.to_json()]
    subprocess.run(command, cwd=Path(__file__).parents[2], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.glob("plumbline-*")) == []


BREAKS = """
import json, pathlib, sys
from validation.run.report import RankReport
for line in sys.stdin:
    try:
        with RankReport(pathlib.Path(json.loads(line)["folder"]), 0).last_words():
            raise RuntimeError(sys.argv[1])
    except RuntimeError:
        pass
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a process for references runs in place of its own module: a program and its words."""
    words, started = list[str](), subprocess.Popen

    def popen(command: list[str], **given: Any) -> subprocess.Popen[str]:
        return started([command[0], "-c", *words], **given)

    monkeypatch.setattr(subprocess, "Popen", popen)
    return words


@pytest.mark.parametrize("said", ["CUDA error: uncorrectable ECC error encountered", "CUDA out of memory", "a bug"])
def test_a_process_whose_reference_broke_computes_nothing_more(
    fresh: ReferenceProcess, tmp_path: Path, program: list[str], said: str
) -> None:
    """A card that is lost is lost to it for good; and torch may go on with a mode that only the end of a module takes off."""
    program += [BREAKS, said]
    process = fresh.warm_up()
    with pytest.raises(RunBroke, match=said) as raised:
        compute(fresh, CASE, tmp_path)
    assert raised.value.broken.exit_code == (ExitCode.FAIL if said == "a bug" else ExitCode.INFRASTRUCTURE)
    assert process.poll() is not None
    assert fresh.warm_up() is not process


HAS_NO_ROOM = """
import json, pathlib, sys
from validation.run.report import RankReport
for line in sys.stdin:
    asked = json.loads(line)
    with pathlib.Path(sys.argv[1]).open("a") as told:
        print(asked["on_host"], file=told)
    report = RankReport(pathlib.Path(asked["folder"]), 0)
    if sys.argv[2] and not asked["on_host"]:
        report.path("stays").touch()
    try:
        with report.last_words():
            if not asked["on_host"] or sys.argv[3] == "both":
                raise RuntimeError(sys.argv[4])
            report.write({})
    except RuntimeError:
        pass
"""


@pytest.mark.parametrize(
    ("words", "asked", "ends"),
    [
        pytest.param(["stays", "once", "CUDA out of memory"], [False, True], "", id="the host has room"),
        pytest.param(["stays", "both", "CUDA out of memory"], [False, True], "CUDA out of memory", id="nor has the host"),
        pytest.param(["stays", "once", "CUBLAS_STATUS_ALLOC_FAILED"], [False, True], "", id="for a workspace"),
        pytest.param(["", "once", "CUDA out of memory"], [False], "CUDA out of memory", id="it was on the host"),
        pytest.param(["stays", "once", "a bug"], [False], "a bug", id="something else"),
    ],
)
def test_a_truth_without_room_on_the_gpu_goes_to_the_host(
    fresh: ReferenceProcess, tmp_path: Path, program: list[str], words: list[str], asked: list[bool], ends: str
) -> None:
    """In a process of its own: what was free when it was looked at may be another process's a second later."""
    program += [HAS_NO_ROOM, str(tmp_path / "told"), *words]
    with pytest.raises(RunBroke, match=ends) if ends else nullcontext():
        fresh.had(CASE, tmp_path, 600.0, lambda step: None)
    assert (tmp_path / "told").read_text().split() == [str(one) for one in asked]


def test_a_reference_that_fails_says_why_and_the_next_one_is_computed(process: ReferenceProcess, tmp_path: Path) -> None:
    """A folder that holds no checkpoint is the user's mistake, with its exit code; the process goes on."""
    with pytest.raises(RunBroke, match=r"^the process that computes the reference raised .*UsageError.*config\.json") as raised:
        compute(process, replace(CASE, hf_model_path=str(tmp_path)), tmp_path)
    assert raised.value.broken.exit_code == ExitCode.USAGE
    assert raised.value.broken.stacks.startswith("--- reference error ---\n")
    assert "in reference\n" in raised.value.broken.stacks
    compute(process, CASE, tmp_path)
    assert store.find(CASE, tmp_path / "home") is not None


def test_a_process_that_is_gone_is_started_anew(process: ReferenceProcess, tmp_path: Path) -> None:
    """As when the kernel has killed it for its memory."""
    first = process.warm_up()
    first.kill()
    first.wait()
    compute(process, CASE, tmp_path)
    assert process.warm_up() is not first


def test_a_process_that_is_killed_is_told_of_as_what_it_is(process: ReferenceProcess, tmp_path: Path) -> None:
    """It is no rank: nobody is to look for one."""
    killed = process.warm_up()
    os.kill(killed.pid, signal.SIGSTOP)
    timer = threading.Timer(0.3, killed.kill)
    timer.start()
    with pytest.raises(RunBroke, match=r"^the process that computes the reference was killed by SIGKILL in 'start'$") as raised:
        compute(process, CASE, tmp_path)
    timer.join()
    assert raised.value.broken.exit_code == ExitCode.INFRASTRUCTURE


def test_a_process_that_hangs_is_ended(process: ReferenceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it hangs before it has read what it is asked for, and so has left no word in the folder."""
    monkeypatch.setattr(watch, "GRACE", 0.1)
    hanging = process.warm_up()
    os.kill(hanging.pid, signal.SIGSTOP)
    with pytest.raises(RunBroke, match=r"^the reference did not finish within 0\.2 s \(in 'start'\);") as raised:
        compute(process, CASE, tmp_path, timeout=0.2)
    assert raised.value.broken.exit_code == ExitCode.INFRASTRUCTURE
    assert hanging.poll() is not None


@pytest.mark.parametrize("raised", ["ImportError('this transformers is broken')", "OSError('this transformers is broken')"])
def test_a_process_that_cannot_start_says_what_is_broken(
    fresh: ReferenceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    """A transformers that cannot be imported, or a package that it imports, is told in its own words, and final."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text(f"raise {raised}")
    monkeypatch.syspath_prepend(tmp_path)
    said = r"the HuggingFace side cannot be imported \(\w+Error: this transformers is broken\); install what that names again"
    with pytest.raises(RunBroke, match=said) as broke:
        compute(fresh, CASE, tmp_path)
    assert broke.value.broken.exit_code == ExitCode.ENVIRONMENT
    assert "in <module>" in broke.value.broken.stacks


def test_closing_ends_it(fresh: ReferenceProcess) -> None:
    """Nothing is left running."""
    running = fresh.warm_up()
    fresh.close()
    assert running.poll() is not None


_STARTED = """
import runpy, sys, types
from validation import reference
from validation.candidate import first_use
sys.modules["validation.reference.compute"] = reference.compute = types.ModuleType("compute")
first_use.ahead = lambda *given: print("used", *given, "transformers" in sys.modules)
runpy.run_module("validation.run.refer", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("transport", "said"), [("gloo", ""), ("staged", "used 0 torch.float64 torch.bfloat16 False\n"), (None, "")]
)
def test_a_gpu_is_first_used_before_transformers_is_imported(transport: str | None, said: str) -> None:
    """Seconds in which it would else be idle; in a process for the CPU nothing is used."""
    given = {name: text for name, text in os.environ.items() if name != "PLUMBLINE_TRANSPORT"}
    given |= {"PLUMBLINE_TRANSPORT": transport} if transport else {}
    ended = subprocess.run(
        [sys.executable, "-c", _STARTED], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=given
    )
    assert (ended.returncode, ended.stdout) == (0, said), ended.stderr


def test_a_process_that_computes_nothing_can_be_ended_and_comes_back(fresh: ReferenceProcess, tmp_path: Path) -> None:
    """What it holds of a GPU is free then."""
    before = fresh.warm_up()
    fresh.rest()
    assert before.poll() is not None
    fresh.rest()  # there is none any more
    compute(fresh, CASE, tmp_path)
    assert store.find(CASE, tmp_path / "home") is not None


def test_a_process_that_computes_is_left_alone(fresh: ReferenceProcess) -> None:
    """Whoever waits for its reference still gets it."""
    process = fresh.warm_up()
    with fresh._one_at_a_time:
        fresh.rest()
    assert process.poll() is None
