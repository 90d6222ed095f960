"""Runs that break, for real: whatever happens to a rank, the sentence names it and nothing is left running."""

from __future__ import annotations

import errno
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tests.ports import free_port
from tests.processes import still_there
from tests.run import breaking
from validation.case import disk
from validation.case.errors import ExitCode
from validation.run import launch
from validation.run import watch as watching
from validation.run.launch import Broken, RunBroke
from validation.run.report import RankReport
from validation.run.watch import Watch, kill_all

TIMEOUT = 120.0
"""Seconds; only a rank that hangs would get near it."""


@pytest.fixture(autouse=True)
def _fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that need no megatron-core start from a server that has only torch's launcher."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    multiprocessing.set_forkserver_preload(["torch.distributed.elastic.multiprocessing.api", "tests.run.breaking"])


@pytest.fixture(autouse=True)
def _soon_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that are killed have nothing to write."""
    monkeypatch.setattr(watching, "GRACE", 0.5)


@pytest.fixture
def _unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elastic never notices the end of a rank that ends with status 0, however long one waits."""
    monkeypatch.setattr(watching, "UNNOTICED", 0.5)


def broken(folder: Path, end: str, timeout: float = TIMEOUT, code: ExitCode = ExitCode.INFRASTRUCTURE) -> Broken:
    """How a run of two ranks is reported whose rank 1 ends as `end` says."""
    with pytest.raises(RunBroke) as raised:
        launch.launch(breaking.rank, (str(folder), end), 2, folder, timeout)
    assert raised.value.exit_code == raised.value.broken.exit_code == code
    assert str(raised.value) == raised.value.broken.sentence
    return raised.value.broken


def assert_nothing_is_left(folder: Path, ranks: int = 2) -> None:
    """Every rank wrote which process it was; none of these processes is there, or soon none."""
    assert still_there(*(int((folder / f"rank-{rank}.pid").read_text()) for rank in range(ranks))) == []


def test_ranks_that_finish_hand_over_what_they_found(tmp_path: Path) -> None:
    """One report per rank, in the order of ranks, each from a process of its own."""
    found = launch.launch(breaking.rank, (str(tmp_path), "finishes"), 2, tmp_path, TIMEOUT)
    assert [report["rank"] for report in found] == [0, 1]
    assert len({os.getpid(), *(report["pid"] for report in found)}) == 3
    assert_nothing_is_left(tmp_path)


def test_what_rank_0_is_doing_is_passed_on(tmp_path: Path) -> None:
    """Whoever waits sees the steps as they come."""
    steps: list[str] = []

    def seen(step: str) -> None:
        steps.append(step)
        (tmp_path / step).touch()

    assert launch.launch(breaking.alone, (str(tmp_path),), 1, tmp_path, TIMEOUT, seen) == [{"done": True}]
    assert steps[:2] == ["first", "second"]  # the end may be seen, too


def test_a_rank_that_raises_is_named_with_its_exception_and_stack(tmp_path: Path) -> None:
    """Rank 0 only waited: the one to blame is rank 1, and its stack shows the line that raised. No other try would help."""
    found = broken(tmp_path, "raises", code=ExitCode.FAIL)
    assert found.rank == 1
    assert found.sentence == "rank 1 raised ValueError('the second rank does not like this')"
    assert "--- rank 1 error ---" in found.stacks
    assert "in _raises" in found.stacks
    assert_nothing_is_left(tmp_path)


def test_a_rank_without_memory_may_be_tried_again(tmp_path: Path) -> None:
    assert broken(tmp_path, "out of memory").sentence.startswith("rank 1 raised torch.OutOfMemoryError: CUDA out of memory")
    assert_nothing_is_left(tmp_path)


def test_who_only_lost_a_connection_is_not_to_blame(tmp_path: Path) -> None:
    """The rank that raised closed its connections; who was at the other end may be seen to fail first."""
    errors = (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), AssertionError("found NaN"))
    for rank, error in enumerate(errors):
        with pytest.raises(type(error)), RankReport(tmp_path, rank).last_words():
            raise error
    found = launch.post_mortem(tmp_path, 2, TIMEOUT, Watch(tmp_path, 2, TIMEOUT, print), [(0, 1)])
    assert (found.rank, found.sentence) == (1, "rank 1 raised AssertionError('found NaN')")
    assert found.exit_code == ExitCode.FAIL
    assert "Connection closed by peer" in found.stacks


def test_a_rank_that_is_killed_is_named_with_the_signal(tmp_path: Path) -> None:
    """As the kernel does when memory runs out: no word from the rank itself."""
    found = broken(tmp_path, "killed")
    assert (found.rank, found.sentence) == (1, "rank 1 was killed by SIGKILL in 'the hard part'")
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    "printed",
    [
        "\nlibgomp: Thread creation failed: Resource temporarily unavailable\n",
        "terminate called after throwing an instance of 'std::system_error'\n  what():  Resource temporarily unavailable\n",
    ],
)
def test_a_rank_that_got_no_thread_printed_it_and_died(tmp_path: Path, printed: str) -> None:
    """OpenMP and the C++ library end the process: there is no exception, and no other try would help."""
    errors = tmp_path / "logs" / "run" / "attempt_0" / "1" / "stderr.log"
    errors.parent.mkdir(parents=True)
    errors.write_text(printed)
    found = launch.post_mortem(tmp_path, 2, TIMEOUT, Watch(tmp_path, 2, TIMEOUT, print), [(1, -6)])
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert found.sentence.startswith("rank 1 was killed by SIGABRT in 'start': no more processes or threads may be started")


def test_a_rank_that_used_up_its_cpu_time_would_do_so_again(tmp_path: Path) -> None:
    """`ulimit -t`, which login nodes have."""
    watch = Watch(tmp_path, 2, TIMEOUT, print)
    found = launch.post_mortem(tmp_path, 2, TIMEOUT, watch, [(0, -signal.SIGXCPU)])
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert found.sentence == "rank 0 was killed by SIGXCPU in 'start': no more CPU time may be used (`ulimit -t`)"


def test_a_rank_that_could_leave_no_word_died_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its report would have been on that disk."""
    monkeypatch.setattr(disk, "is_full", lambda folder: folder == tmp_path)
    found = launch.post_mortem(tmp_path, 2, TIMEOUT, Watch(tmp_path, 2, TIMEOUT, print), [(1, 1)])
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert found.sentence.endswith(f"no space is left in {tmp_path.parent}")


@pytest.mark.parametrize("full", ["", "cache"])
@pytest.mark.parametrize("otherwise", [EOFError("Ran out of input"), None])
def test_a_run_that_full_disks_kept_from_starting_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str, otherwise: Exception | None
) -> None:
    """Whatever what starts ranks says of it, and though a rank that lost its connection could still say that."""
    monkeypatch.setattr(disk, "is_full", lambda folder: folder == tmp_path / full)
    watch = Watch(tmp_path, 2, TIMEOUT, print)
    if otherwise is None:
        with pytest.raises(RuntimeError), RankReport(tmp_path, 0).last_words():
            raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    failures = [] if otherwise else [(0, 1), (1, 1)]
    found = launch.post_mortem(tmp_path, 2, TIMEOUT, watch, failures, otherwise, written=[tmp_path / "cache"])
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert found.sentence.endswith(f": no space is left in {tmp_path / full if full else tmp_path.parent}")


def test_no_full_disk_is_blamed_where_every_rank_left_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They had room for it."""
    monkeypatch.setattr(disk, "is_full", lambda folder: True)
    for rank in range(2):
        with pytest.raises(RuntimeError), RankReport(tmp_path, rank).last_words():
            raise RuntimeError("Connection closed by peer")
    watch = Watch(tmp_path, 2, TIMEOUT, print)
    assert launch.post_mortem(tmp_path, 2, TIMEOUT, watch, [(0, 1)]).exit_code == ExitCode.INFRASTRUCTURE


def test_ranks_that_the_machine_does_not_let_start_are_its_own_fault(tmp_path: Path) -> None:
    """The process that starts them has as many files open as it may."""
    watch = Watch(tmp_path, 2, TIMEOUT, print)
    found = launch.post_mortem(tmp_path, 2, TIMEOUT, watch, [], OSError(errno.EMFILE, "Too many open files"))
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert found.sentence == "the ranks could not be started: [Errno 24] Too many open files"


def test_a_rank_that_crashes_leaves_its_stack(tmp_path: Path) -> None:
    """A segmentation fault in a kernel: the Python line that called it is known."""
    found = broken(tmp_path, "crashes")
    assert (found.rank, found.sentence) == (1, "rank 1 was killed by SIGSEGV in 'the hard part'")
    assert "Segmentation fault" in found.stacks
    assert "in _crashes" in found.stacks
    assert_nothing_is_left(tmp_path)


def test_a_rank_that_exits_is_named_with_its_status(tmp_path: Path) -> None:
    """A library that calls exit by itself."""
    found = broken(tmp_path, "exits")
    assert (found.rank, found.sentence) == (1, "rank 1 ended with exit status 7 in 'the hard part'")
    assert_nothing_is_left(tmp_path)


@pytest.mark.usefixtures("_unnoticed")
def test_a_rank_that_leaves_without_a_report_is_named(tmp_path: Path) -> None:
    """Exit status 0 is no success: without its report nothing is known, and nobody waits for the time-out."""
    found = broken(tmp_path, "leaves")
    assert_nothing_is_left(tmp_path)
    assert (found.rank, found.sentence) == (1, "rank 1 ended without a report in 'the hard part'")


@pytest.mark.usefixtures("_unnoticed")
def test_the_only_rank_that_leaves_without_a_report_is_not_waited_for(tmp_path: Path) -> None:
    """Torch waits without end for what it returns, and there is no other rank to be killed."""
    with pytest.raises(RunBroke) as raised:
        launch.launch(breaking.ends_alone, (str(tmp_path), "leaves"), 1, tmp_path, TIMEOUT)
    assert raised.value.broken.sentence == "rank 0 ended without a report in 'start'"
    assert raised.value.exit_code == ExitCode.INFRASTRUCTURE
    assert_nothing_is_left(tmp_path, ranks=1)


@pytest.mark.parametrize(("end", "said"), [("leaves by sys.exit", "SystemExit()"), ("is interrupted", "KeyboardInterrupt()")])
def test_a_rank_that_is_ended_by_what_is_no_error_is_not_waited_for(tmp_path: Path, end: str, said: str) -> None:
    """Torch takes either for an end in order and waits for what the rank returns, however dead it is."""
    with pytest.raises(RunBroke) as raised:
        launch.launch(breaking.ends_alone, (str(tmp_path), end), 1, tmp_path, TIMEOUT)
    assert raised.value.broken.sentence == f"rank 0 raised {said}"
    assert raised.value.exit_code == ExitCode.INFRASTRUCTURE
    assert_nothing_is_left(tmp_path, ranks=1)


def test_ranks_that_hang_say_what_they_were_doing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell who is late, so every rank's step and stack is shown."""
    monkeypatch.setattr(watching, "GRACE", 2.0)
    monkeypatch.setattr(watching, "time", breaking.Clock(TIMEOUT, tmp_path, tmp_path))
    found = broken(tmp_path, "hangs")
    assert found.rank is None
    assert found.sentence == (
        "the ranks did not finish within 120 s (rank 0 in 'waiting for rank 1'; rank 1 in 'the hard part'); "
        "raise --timeout or look at the stacks"
    )
    for rank in (0, 1):
        stack = found.stacks.partition(f"--- rank {rank} stacks ---")[2].partition("--- rank")[0]
        assert "in sleep_forever" in stack
    assert_nothing_is_left(tmp_path)


def test_a_run_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    """Whoever started it wants it gone: every rank is killed, wherever it is."""

    def interrupt(step: str) -> None:
        if step == "waiting for rank 1":
            # The other rank may not have begun: what has no process yet could not be seen to be left.
            while not (tmp_path / "rank-1.pid").exists():
                time.sleep(0.01)
            kill_all()

    with pytest.raises(RunBroke):
        launch.launch(breaking.rank, (str(tmp_path), "hangs"), 2, tmp_path, TIMEOUT, interrupt)
    assert_nothing_is_left(tmp_path)


def test_two_threads_that_ask_at_once_get_the_same_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one case's ranks asks those of the other whether they have ended, and must not take their answer away."""
    launch._read_exit_codes_once()
    process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    process.start()
    multiprocessing.connection.wait([process.sentinel])
    read = forkserver.read_signed

    def slow(descriptor: int) -> int:
        time.sleep(0.2)
        return read(descriptor)

    monkeypatch.setattr(forkserver, "read_signed", slow)
    popen: Any = process._popen  # type: ignore[attr-defined]
    threads = [threading.Thread(target=popen.poll) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert popen.returncode == 0


def test_a_port_may_come_round_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports are few and runs many: the store of an earlier run on the same one is not in the way of what elastic does."""
    port = free_port()

    class Again(socket.socket):
        def bind(self, address: Any) -> None:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            super().bind((address[0], port))

    monkeypatch.setattr(socket, "socket", Again)
    assert launch.meeting_place().port == port
    store = launch.meeting_place()
    taken_over = TCPStore("localhost", port, is_master=True, wait_for_workers=False, multi_tenant=True)
    store.set("said by", "the launcher")
    assert taken_over.get("said by") == b"the launcher"


def test_a_report_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """A rank that dies while it writes leaves no half report to be read as one."""
    report = RankReport(tmp_path, 3)
    with pytest.raises(TypeError):
        report.write({"cannot": object()})
    assert not (tmp_path / "rank-3.json").exists()
    report.write({"x": 1})
    assert json.loads((tmp_path / "rank-3.json").read_text()) == {"x": 1}
