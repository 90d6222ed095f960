"""The next case starts when the ranks of one before it have left their findings, and not when these have been read."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from validation.case.case import Case
from validation.reference import store
from validation.run import jobs, limits, runner, watch
from validation.run.launch import Broken, RunBroke
from validation.run.nodes.leading import Alone
from validation.run.options import parsed
from validation.run.references import REFERENCES
from validation.run.runner import Runner

_LAYOUTS = "single,tp2,pp2,ep2"


@pytest.mark.parametrize(("words", "overlapping"), [((), True), (("--preset", "mini"), False)], ids=["small", "large"])
@pytest.mark.parametrize("breaks", [False, True], ids=["all is well", "the first breaks"])
def test_cases_start_in_order_as_soon_as_there_is_room(
    words: tuple[str, ...], overlapping: bool, breaks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time: the next one's ranks start while those of a small case end, and else when they have ended."""
    started, ended = queue.Queue[str](), {name: threading.Event() for name in _LAYOUTS.split(",")}

    class Launcher(Alone):
        @property
        def launch(self) -> Any:
            return launch

    def launch(entry: object, arguments: tuple[str, ...], *given: object, left: Any = None) -> list[dict[str, Any]]:
        name = Case.from_json(arguments[0]).layout.name
        started.put(name)
        if breaks and name == "single":
            raise RunBroke(Broken(0, "rank 0 is gone", ""))
        if left is not None:
            left()
        assert ended[name].wait(60)
        return []

    monkeypatch.setattr(store.Reference, "facts", lambda reference: {})
    monkeypatch.setattr(Runner, "_reference", lambda runner, case: store.Reference(tmp_path))
    monkeypatch.setattr(runner, "merged", lambda case, *given: case.layout.name)
    settings = parsed([*words, "--layouts", _LAYOUTS, "--jobs", "1", "--results", str(tmp_path)])
    running = Runner(settings, nodes=Launcher())
    try:
        running.start(settings.cases)
        before = ""
        for name in ended:
            assert started.get(timeout=60) == name
            if before:
                ended[before].set()  # one more at a time ends, and no two
            before = name if overlapping else ""
            if not overlapping and not (breaks and name == "single"):
                assert started.empty()
                ended[name].set()
        ended[name].set()
        results: list[Any] = [running.result(case) for case in settings.cases]
        first, *others = results
        assert others == list(ended)[1:]
        assert isinstance(first, str) is not breaks
    finally:
        for event in ended.values():
            event.set()
        running.close()


@pytest.mark.parametrize(("jobs_", "closed"), [("2", ["first", "second", "closed"]), ("1", ["first", "second"])])
def test_references_process_ends_behind_the_last_that_is_asked_for(
    jobs_: str, closed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one case at a time references are asked for as cases come: then it ends with the command."""
    done, names = list[str](), iter(["first", "second"])
    monkeypatch.setattr(REFERENCES, "close", lambda: done.append("closed"))
    settings = parsed(["--layouts", "single,single+mtp", "--jobs", jobs_, "--results", str(tmp_path)])
    running = Runner(settings)
    monkeypatch.setattr(running, "run", lambda case, *given: running._asked(case).result())
    monkeypatch.setattr(running, "_reference", lambda case: done.append(next(names)))
    running.start(settings.cases)
    running.all_started()
    for case in settings.cases:
        running.result(case)
    running._one_at_a_time.shutdown(wait=True)
    assert done == closed
    running.close(references=False)


@pytest.mark.parametrize(
    ("words", "ended"),
    [
        (("--stream", "--steps", "0", "--transport", "nccl"), ["ended", "ranks"]),
        (("--stream", "--steps", "0"), ["ranks"]),
        (("--transport", "nccl"), ["ranks"]),
    ],
    ids=["in lockstep on a GPU", "in lockstep on the CPU", "at once on a GPU"],
)
def test_a_rank_that_computes_the_reference_has_the_gpu_for_itself(
    words: tuple[str, ...], ended: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that stored the tokens would hold a context there for minutes."""
    done = list[str]()

    class Launcher(Alone):
        @property
        def launch(self) -> Any:
            return launch

    def launch(*given: object, **more: object) -> list[dict[str, Any]]:
        done.append("ranks")
        return []

    monkeypatch.setattr(REFERENCES, "rest", lambda: done.append("ended"))
    monkeypatch.setattr(store.Reference, "facts", lambda reference: {})
    monkeypatch.setattr(Runner, "_reference", lambda runner, case: store.Reference(tmp_path))
    monkeypatch.setattr(runner, "merged", lambda case, *given: case.layout.name)
    settings = parsed([*words, "--layouts", "single", "--results", str(tmp_path)])
    running = Runner(settings, nodes=Launcher())
    running.run(settings.cases[0])
    running.close(references=False)
    assert done == ended


def test_a_watch_tells_once_that_all_findings_are_there(tmp_path: Path) -> None:
    """While the ranks end."""
    told, there = list[bool](), threading.Event()

    def left() -> None:
        told.append((tmp_path / "rank-1.json").exists() and (tmp_path / "rank-0.json").exists())
        there.set()

    with watch.watched(tmp_path, 2, 600.0, lambda step: None, left=left):
        (tmp_path / "rank-1.json").write_text("{}")
        assert not there.wait(5 * watch._SOON)
        (tmp_path / "rank-0.json").write_text("{}")
        assert there.wait(60)
        assert not threading.Event().wait(2 * watch._POLL)
    assert told == [True]


@pytest.mark.parametrize(
    ("words", "lacking", "overlapping"),
    [((), 4, True), ((), 3, False), (("--preset", "mini"), 4, False), (("--share-gpu", "2"), 4, False)],
    ids=str,
)
def test_ranks_that_end_need_room_beside_others(
    words: tuple[str, ...], lacking: int, overlapping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of threads, for one case more than run at a time. Memory is none of small cases' worries."""
    monkeypatch.setattr(limits, "too_few_threads", lambda cases, count: "too few" if count >= lacking else None)
    assert jobs.overlapping(parsed(words).cases, 2) is overlapping
