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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from validation.case.errors import ExitCode
from validation.case.memory import GIB, estimate
from validation.machine import Gpu
from validation.run import jobs, limits, watch
from validation.run.held import HeldRanks
from validation.run.launch import Broken, RunBroke
from validation.run.nodes.leading import Alone
from validation.run.options import parsed
from validation.run.report import READY, RankReport
from validation.run.runner import Runner

_TWO_CASES = """
import sys
from validation.run import jobs

jobs.held = lambda cases, count: 2
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

    def start(folder: Path, turn: watch.Turn, left: Callable[[], None]) -> list[dict[str, Any]]:
        assert turn.wait(60)
        return [{"told": RankReport(folder, 0).turn(lambda reference: None)}]

    held = HeldRanks(contextlib.nullcontext(tmp_path), start, threads)
    assert held.reports(Path("/references/one")) == [{"told": "/references/one"}]


def test_whoever_gives_held_ranks_their_turn_is_told_when_all_have_left_their_findings(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    """While their processes end."""
    ended, told = threading.Event(), threading.Event()

    def start(folder: Path, turn: watch.Turn, left: Callable[[], None]) -> list[dict[str, Any]]:
        assert turn.wait(60)
        left()
        assert ended.wait(60)
        return []

    held = HeldRanks(contextlib.nullcontext(tmp_path), start, threads)
    reports = threads.submit(held.reports, Path("/references/one"), told.set)
    assert told.wait(60)
    assert not reports.done()
    ended.set()
    assert reports.result(60) == []


def test_held_ranks_know_their_reference_before_their_turn(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """As soon as it is there, and once."""
    known: queue.Queue[Path] = queue.Queue()

    def start(folder: Path, turn: watch.Turn, left: Callable[[], None]) -> list[dict[str, Any]]:
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

    def start(folder: Path, turn: watch.Turn, left: Callable[[], None]) -> list[dict[str, Any]]:
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

    held = HeldRanks(folder(), lambda folder, turn, left: [], threads)
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

    def ended(*given: object, turn: watch.Turn, left: object) -> list[dict[str, Any]]:
        started.put(turn)
        while not turn.given_up:
            time.sleep(0.01)
        raise RunBroke(Broken(0, "given up", ""))

    def no_reference(*given: object) -> None:
        raise RunBroke(Broken(None, "no reference", ""))

    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jobs, "held", lambda cases, count: 1)
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


@pytest.mark.parametrize(("ahead", "overlap"), [(2, True), (1, False)])
def test_a_turn_comes_while_the_ranks_before_it_end_where_there_is_room_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, overlap: bool
) -> None:
    """When they have left their findings."""
    began = threading.Event()
    seen: list[bool] = []

    class Launcher(Alone):
        @property
        def launch(self) -> Any:
            return ran

    def ran(*given: Any, turn: watch.Turn, left: Callable[[], None]) -> list[dict[str, Any]]:
        assert turn.wait(60)
        first = not seen
        seen.append(first)
        if first:
            given[-1]("forward")  # its progress
            left()
            seen.append(began.wait(60 if overlap else 0.5))
        else:
            began.set()
        raise RunBroke(Broken(0, "over", ""))

    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jobs, "held", lambda cases, count: ahead)
    monkeypatch.setattr(jobs, "overlapping", lambda cases, count: False)  # as on a GPU
    settings = parsed(["--layouts", "single,tp2", "--jobs", "1", "--results", str(tmp_path / "results")])
    runner = Runner(settings, nodes=Launcher())
    monkeypatch.setattr(runner, "_reference", lambda *given: SimpleNamespace(folder=tmp_path, facts=dict))
    try:
        runner.start(settings.cases)
        results = [runner.result(case).broken for case in settings.cases]
    finally:
        runner.close()
    assert [broken.sentence for broken in results if broken] == ["over", "over"]
    assert seen == ([True, False, True] if overlap else [True, False, False])


def test_ranks_of_as_many_cases_are_held_as_are_good_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the cases; when one has begun, those of a further one."""
    started: list[str] = []
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jobs, "held", lambda cases, count: 2)
    settings = parsed(["--layouts", "single,tp2,pp2,ep2", "--jobs", "1", "--results", str(tmp_path / "results")])
    runner = Runner(settings)
    monkeypatch.setattr(runner, "_holding_ranks", lambda case, plugin: started.append(case.layout.name))
    try:
        runner._started.update({(case, ""): Future() for case in settings.cases})
        for at, begun in enumerate(settings.cases):
            runner._begun.add((begun, ""))
            runner._held.pop((begun, ""), None)
            for _ in range(2):
                runner._told(begun, "forward")
            assert started == ["tp2", "pp2", "ep2"][: at + 2]
    finally:
        runner._held.clear()
        runner.close()


@pytest.mark.parametrize(
    ("words", "count", "fits", "cores", "held"),
    [
        (("--share-gpu", "4", "--preset", "mini"), 1, 3, 99, 1),
        (("--share-gpu", "4", "--preset", "mini"), 1, 2, 99, 0),
        (("--share-gpu", "4", "--preset", "mini"), 1, 10, 12, 2),
        (("--share-gpu", "4", "--preset", "mini"), 1, 10, 11, 1),
        (("--share-gpu", "4", "--preset", "mini"), 1, 9, 12, 1),
        (("--share-gpu", "4", "--preset", "mini"), 2, 5, 99, 2),
        (("--share-gpu", "4", "--preset", "mini"), 2, 4, 99, 0),
        (("--share-gpu", "4", "--preset", "mini"), 2, 18, 24, 4),
        (("--share-gpu", "4", "--preset", "mini"), 2, 18, 23, 2),
        (("--transport", "nccl", "--preset", "mini"), 1, 9, 99, 0),
        (("--share-gpu", "4", "--preset", "v3-layers", "--seq-length", "64"), 1, 9, 99, 0),
        ((), 2, 9, 99, 0),
    ],
)
def test_ranks_of_small_cases_are_held_where_they_fit(
    words: tuple[str, ...], count: int, fits: int, cores: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ranks share GPUs; on a CPU nothing is gained. Those of twice as many cases if each rank has a core, too."""
    cases = parsed((*words, *(("--layouts", "pp2,tp2pp2,tp2") if words else ()))).cases
    card = max(estimate(case).card for case in cases) or GIB
    monkeypatch.setattr(jobs, "visible_gpus", lambda: [Gpu("H200", 10 * card, fits * card)])
    monkeypatch.setattr(jobs, "available_memory", lambda: None)
    monkeypatch.setattr(jobs, "cores", lambda: cores)
    monkeypatch.setattr(limits, "available_threads", lambda: None)
    assert jobs.held(cases, count) == held


@pytest.mark.parametrize(("more", "held"), [(0, 2), (-1, 1), (-1000, 0)])
def test_ranks_are_held_as_far_as_threads_may_be_started(more: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More ranks have more of them."""
    cases = parsed(["--share-gpu", "4", "--preset", "mini", "--layouts", "tp2pp2,tp2ep2,ep4,tp4"]).cases
    monkeypatch.setattr(jobs, "visible_gpus", lambda: [Gpu("H200", 10 << 40, 10 << 40)])
    monkeypatch.setattr(jobs, "available_memory", lambda: None)
    monkeypatch.setattr(jobs, "cores", lambda: 99)
    monkeypatch.setattr(limits, "available_threads", lambda: max(0, limits._threads(cases, 4) + more))
    assert jobs.held(cases, 1) == held


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
