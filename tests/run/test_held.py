"""Ranks that start while the case before theirs runs."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from validation.case.errors import ExitCode
from validation.case.memory import GIB, estimate
from validation.machine import Gpu
from validation.run import jobs, watch
from validation.run.held import HeldRanks
from validation.run.launch import Broken, RunBroke
from validation.run.nodes.leading import Alone
from validation.run.options import parsed
from validation.run.report import READY, RankReport
from validation.run.runner import Runner

_TWO_CASES = """
import sys
from validation.run import jobs

jobs.held = lambda cases, count: True
if __name__ == "__main__":
    from validation.cli import main

    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_held_ranks_report_after_their_turn(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """They are told which folder has their reference."""

    def start(folder: Path, turn: watch.Turn) -> list[dict[str, Any]]:
        assert turn.wait(60)
        return [{"told": RankReport(folder, 0).turn(lambda reference: None)}]

    held = HeldRanks(contextlib.nullcontext(tmp_path), start, threads)
    assert held.reports(Path("/references/one")) == [{"told": "/references/one"}]


def test_held_ranks_know_their_reference_before_their_turn(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """As soon as it is there, and once."""
    known: queue.Queue[Path] = queue.Queue()

    def start(folder: Path, turn: watch.Turn) -> list[dict[str, Any]]:
        return [{"told": RankReport(folder, 0).turn(known.put)}]

    held = HeldRanks(contextlib.nullcontext(tmp_path), start, threads)
    held.tell(Path("/references/one"))
    assert known.get(timeout=60) == Path("/references/one")
    assert held.reports(Path("/references/one")) == [{"told": "/references/one"}]
    assert known.empty()


@pytest.mark.parametrize("gone", [True, False], ids=["with the folder", "and the folder stays"])
def test_held_ranks_that_broke_break_their_case(tmp_path: Path, threads: ThreadPoolExecutor, gone: bool) -> None:
    """What they raised is raised when their turn comes, and not before."""
    ended = threading.Event()

    @contextlib.contextmanager
    def folder() -> Iterator[Path]:
        place = tmp_path / "run"
        place.mkdir()
        try:
            yield place
        finally:
            if gone:
                place.rmdir()
            ended.set()

    def start(folder: Path, turn: watch.Turn) -> list[dict[str, Any]]:
        raise RunBroke(Broken(0, "rank 0 was killed by SIGKILL", ""))

    held = HeldRanks(folder(), start, threads)
    assert ended.wait(60)
    with pytest.raises(RunBroke, match="rank 0 was killed by SIGKILL"):
        held.reports(Path("/references/one"))


def test_held_ranks_that_have_no_folder_break_their_case(threads: ThreadPoolExecutor) -> None:
    """As those do that start in their turn."""

    @contextlib.contextmanager
    def folder() -> Iterator[Path]:
        raise OSError("no room")
        yield

    held = HeldRanks(folder(), lambda folder, turn: [], threads)
    with pytest.raises(OSError, match="no room"):
        held.reports(Path("/references/one"))


def test_no_time_passes_before_the_turn(tmp_path: Path) -> None:
    """And nothing is told of ranks that wait."""
    told: list[str] = []
    turn = watch.Turn()
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / "rank-0.pid").write_text(str(rank.pid))
    RankReport(tmp_path, 0).progress(READY)
    with watch.watched(tmp_path, 1, 0.2, told.append, turn=turn) as watching:
        time.sleep(0.6)  # three times what they have, once it is their turn
        assert (rank.poll(), watching.timed_out, told) == (None, False, [])
        turn.set()
        assert watching.gone.wait(60)
        rank.wait(60)
    assert watching.timed_out
    assert told[:1] == [READY]


def test_ranks_whose_turn_will_not_come_are_ended(tmp_path: Path) -> None:
    """Nobody waits for them."""
    turn = watch.Turn()
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / "rank-0.pid").write_text(str(rank.pid))
    with watch.watched(tmp_path, 1, 600.0, lambda step: None, turn=turn) as watching:
        turn.given_up = True
        assert rank.wait(60) == -signal.SIGKILL
    assert watching.gone.is_set()
    assert not watching.timed_out


def test_a_case_without_a_reference_gives_its_held_ranks_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: what waits would else keep the threads in which others start."""
    started: queue.Queue[watch.Turn] = queue.Queue()

    class Launcher(Alone):
        @property
        def launch(self) -> Any:
            return ended

    def ended(*given: object, turn: watch.Turn) -> list[dict[str, Any]]:
        started.put(turn)
        while not turn.given_up:
            time.sleep(0.01)
        raise RunBroke(Broken(0, "given up", ""))

    def no_reference(*given: object) -> None:
        raise RunBroke(Broken(None, "no reference", ""))

    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jobs, "held", lambda cases, count: True)
    settings = parsed(["--layouts", "single,tp2,pp2,ep2", "--jobs", "1", "--results", str(tmp_path / "results")])
    runner = Runner(settings, nodes=Launcher())
    monkeypatch.setattr(runner, "_reference", no_reference)
    try:
        for case in settings.cases:
            runner._started[case, ""] = Future()
            runner._hold_next()
            turn = started.get(timeout=60)  # there is a thread for it
            broken = runner.run(case).broken
            assert broken is not None
            assert (broken.sentence, turn.given_up) == ("no reference", True)
    finally:
        turn.given_up = True
        runner.close()


@pytest.mark.parametrize(
    ("words", "count", "fits", "held"),
    [
        (("--share-gpu", "4", "--preset", "mini"), 1, 3, True),
        (("--share-gpu", "4", "--preset", "mini"), 1, 2, False),
        (("--share-gpu", "4", "--preset", "mini"), 2, 5, True),
        (("--share-gpu", "4", "--preset", "mini"), 2, 4, False),
        (("--transport", "nccl", "--preset", "mini"), 1, 9, False),
        (("--share-gpu", "4", "--preset", "v3-layers", "--seq-length", "64"), 1, 9, False),
        ((), 2, 9, False),
    ],
)
def test_ranks_of_small_cases_are_held_where_they_fit(
    words: tuple[str, ...], count: int, fits: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ranks share GPUs; on a CPU nothing is gained."""
    cases = parsed(words).cases
    card = max(estimate(case).card for case in cases) or GIB
    monkeypatch.setattr(jobs, "visible_gpus", lambda: [Gpu("H200", 10 * card, fits * card)])
    monkeypatch.setattr(jobs, "available_memory", lambda: None)
    assert jobs.held(cases, count) == held


def test_a_case_whose_ranks_were_held_is_judged_as_any_other(tmp_path: Path) -> None:
    """The first case's ranks wait while its reference is computed, the second one's while the first runs."""
    script = tmp_path / "two_cases.py"
    script.write_text(_TWO_CASES)
    words = ["run", "--layouts", "single,single+full", "--steps", "0", "--jobs", "1", "--no-self-test", "--debug"]
    done = subprocess.run(
        [sys.executable, str(script), *words, "--results", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == ExitCode.PASS, done.stdout + done.stderr
    assert "PASS (2 cases" in done.stdout
    times = [path.read_text() for path in sorted((tmp_path / "results" / "debug").glob("*/rank-0.times"))]
    assert [READY in text for text in times] == [True, True]
