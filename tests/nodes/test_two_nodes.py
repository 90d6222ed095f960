"""Ranks on two nodes, for real: torch elastic on both, no folder in common, and every way in which a rank ends."""

from __future__ import annotations

import functools
import multiprocessing
from pathlib import Path

import pytest

from tests.run import breaking
from tests.run.nodes import light
from tests.run.nodes.pair import KEY, TIMEOUT, Pair, pair
from validation.cache import forget
from validation.case.errors import ExitCode
from validation.reference import store
from validation.run import entry, launch, watch
from validation.run.launch import RunBroke
from validation.run.nodes import follower as followers


@pytest.fixture(autouse=True)
def _light_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks start from a server that has only torch's launcher, and are killed soon."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    preloaded = ["torch.distributed.elastic.multiprocessing.api", "tests.run.breaking", "tests.run.nodes.light"]
    multiprocessing.set_forkserver_preload(preloaded)
    monkeypatch.setattr(entry, "rank", light.rank)
    monkeypatch.setattr(watch, "GRACE", 0.3)
    # Both are on one machine here: the head's folder is hidden from the follower.
    find = store.find_same
    monkeypatch.setattr(store, "find_same", lambda key, digests, home, also: find(key, digests, home, home))


def broken(found: Pair, end: str, folder: Path | None = None) -> RunBroke:
    with pytest.raises(RunBroke) as raised:
        found.launch(end, folder)
    return raised.value


def test_ranks_of_two_nodes_hand_over_what_they_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The follower has no reference: it gets the head's, stores it sealed under the same key, and is asked no second time."""
    with pair(tmp_path) as found:
        assert [report["rank"] for report in found.launch("finishes")] == [0, 1]
        (kept,) = forget.references_of(KEY, tmp_path / "follower")
        assert store.contents(kept) == store.contents(found.reference)
        monkeypatch.setattr(followers.Running, "_fetch", lambda self, folder: pytest.fail("it asked again"))
        assert len(found.launch("finishes")) == 2
    assert found.end == [(0, "")]


@pytest.mark.parametrize(
    ("end", "said", "code"),
    [
        ("raises", "rank 1 raised ValueError('the second rank does not like this')", ExitCode.FAIL),
        ("killed", "rank 1 was killed by SIGKILL in 'the hard part'", ExitCode.INFRASTRUCTURE),
        ("exits", "rank 1 ended with exit status 7 in 'the hard part'", ExitCode.INFRASTRUCTURE),
        ("leaves", "rank 1 ended without a report in 'the hard part'", ExitCode.INFRASTRUCTURE),
    ],
)
def test_a_rank_of_another_node_that_ends_is_named_with_its_node(
    tmp_path: Path, end: str, said: str, code: ExitCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0, on the head, would wait for it until the time is up; the next run goes on with both nodes."""
    if end == "leaves":  # which elastic does not notice, however long one waits
        monkeypatch.setattr(watch, "UNNOTICED", 0.3)
    with pair(tmp_path) as found:
        ended = broken(found, end)
        assert ended.broken.sentence.startswith(f"{said} (rank 1 on node 1 (")
        assert (ended.broken.rank, ended.exit_code) == (1, code)
        assert len(found.launch("finishes")) == 2


def test_a_time_out_says_what_each_rank_was_doing_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is up when both hang, whatever the machine has needed for that."""
    monkeypatch.setattr(launch, "run_folder", functools.partial(launch.run_folder, tmp_path / "ranks of the follower"))
    monkeypatch.setattr(watch, "GRACE", 2.0)
    with pair(tmp_path) as found:
        folder = tmp_path / "ranks of the head"
        folder.mkdir()
        monkeypatch.setattr(watch, "time", breaking.Clock(TIMEOUT, folder, tmp_path / "ranks of the follower"))
        ended = broken(found, "hangs", folder)
    assert "rank 0 in 'waiting for rank 1'; rank 1 in 'the hard part'" in ended.broken.sentence
    assert "rank 1 on node 1 (" in ended.broken.sentence
    assert "--- rank 1 stacks ---" in ended.broken.stacks
    assert ended.exit_code == ExitCode.INFRASTRUCTURE


def test_a_reference_that_came_otherwise_than_it_was_sent_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte differs: nothing of it stays in the cache, and the node says so."""
    fetch = followers.Running._fetch

    def spoiled(self: followers.Running, folder: Path) -> None:
        fetch(self, folder)
        (folder / "batch.safetensors").write_text("tokenz")

    monkeypatch.setattr(followers.Running, "_fetch", spoiled)
    with pair(tmp_path) as found:
        ended = broken(found, "finishes")
    assert "node 1 (" in ended.broken.sentence
    assert "could not start rank 1" in ended.broken.sentence
    assert "not those that were sent" in ended.broken.sentence
    assert [path.name for path in (tmp_path / "follower" / "references").iterdir()] == []
