"""Two small cases run at the same time, where both fit."""

from __future__ import annotations

import pytest

from validation.case.memory import GIB, estimate
from validation.machine import Gpu
from validation.run import jobs, limits
from validation.run.options import parsed

ON_GPU = ("--share-gpu", "4", "--preset", "mini")


def machine(monkeypatch: pytest.MonkeyPatch, cards: list[int], memory: int | None = 100 * GIB) -> None:
    """A machine with so many bytes free on each GPU, and on the host."""
    monkeypatch.setattr(jobs, "visible_gpus", lambda: [Gpu("H200", 2 * free, free) for free in cards])
    monkeypatch.setattr(jobs, "available_memory", lambda: memory)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ((), 2),
        (("--preset", "mini"), 1),
        (ON_GPU, 2),
        (("--share-gpu", "2"), 2),
        (("--share-gpu", "2", "--preset", "v3-layers", "--seq-length", "64"), 1),
        (("--transport", "nccl"), 1),
    ],
    ids=["tiny", "mini", "mini shares", "tiny shares", "v3-layers shares", "nccl"],
)
def test_small_cases_run_two_at_a_time(words: tuple[str, ...], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU only tiny; ranks with a GPU each are alone on it."""
    machine(monkeypatch, [100 * GIB])
    assert jobs.at_once(parsed(words).cases) == count


def test_two_at_a_time_must_fit_on_the_fullest_card_and_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reference of the next one. Where nothing is known of the cards, there is one case at a time."""
    cases = parsed((*ON_GPU, "--layouts", "tp2,dp2")).cases
    needed = [estimate(case) for case in cases]
    card, host = max(one.card for one in needed), max(one.host for one in needed)
    counts = []
    for cards, memory in (([3 * card], 3 * host), ([3 * card - 1], 3 * host), ([3 * card], 3 * host - 1), ([], 3 * host)):
        machine(monkeypatch, cards, memory)
        counts.append(jobs.at_once(cases))
    assert counts == [2, 1, 1, 1]


@pytest.mark.parametrize("words", [(), ON_GPU], ids=["on the CPU", "on a GPU"])
def test_two_at_a_time_must_have_their_threads(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it is one, which may have enough of them."""
    machine(monkeypatch, [100 * GIB])
    cases = parsed((*words, "--layouts", "tp2,pp2")).cases
    for fewer, count in ((0, 2), (1, 1)):
        monkeypatch.setattr(limits, "available_threads", lambda fewer=fewer: limits._threads(cases, 2) - fewer)
        assert jobs.at_once(cases) == count
