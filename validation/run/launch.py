"""Starting ranks: torch elastic over a fork server that has everything imported."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, popen_forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation import cuda, loopback
from validation.case import disk, exhausted, interrupts
from validation.case.case import ON_CPU
from validation.case.errors import ExitCode, PlumblineError
from validation.run import forked, inherited, temporary
from validation.run import watch as watching
from validation.run.cause import TIMED_OUT, exit_code
from validation.run.watch import Watch, last_step, watched

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Broken:
    """How a run ended that did not finish: the rank, a sentence, and every stack that could be had."""

    rank: int | None
    sentence: str
    stacks: str
    exit_code: ExitCode = ExitCode.INFRASTRUCTURE


class RunBroke(PlumblineError):
    """A run that did not finish; carries what its ranks left behind, and the exit code of what broke it."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken.sentence)
        self.broken, self.exit_code = broken, broken.exit_code


def broken_by(error: RunBroke | OSError) -> Broken:
    """How a run ended that its ranks broke, or that the machine did not let start."""
    if isinstance(error, RunBroke):
        return error.broken
    return Broken(None, f"the ranks could not be started: {error}", "", exit_code(error))


def prepare(transport: str, steps: bool = False, compiles: bool = False) -> None:
    """Set what must be set before torch is imported anywhere, and name what the fork server imports.

    It imports what optimizer `steps` need, and torch's compiler if ranks compile (`compiles`): 1.4 s in each of them otherwise.
    """
    os.environ["PLUMBLINE_TRANSPORT"] = transport
    os.environ["PLUMBLINE_STEPS"] = "1" if steps else ""
    os.environ["PLUMBLINE_COMPILES"] = "1" if compiles else ""
    inherited.settle()
    temporary.settle()
    if transport in ON_CPU:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        # Asking CUDA whether it is there would initialise it in the fork server, after which no rank could use it.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        # Transformer Engine asks cuBLAS for TF32 in every product of float32, whatever torch has been told.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        # Each rank that compiles would start a process for each core, which imports torch, for a kernel or two.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    multiprocessing.set_forkserver_preload(["validation.run.preload"])


def start_method() -> str:
    """How ranks start: warm, from the fork server, unless what it would import uses the GPU; then each imports by itself."""
    on_gpu = os.environ.get("PLUMBLINE_TRANSPORT", ON_CPU[0]) not in ON_CPU
    return "spawn" if on_gpu and cuda.imports_initialise_cuda() else "forkserver"


def warm_up() -> None:
    """Start the fork server now: it imports while this process does other things.

    It and its ranks do not listen to an interrupt from the keyboard, which all of a terminal's processes get: this process
    ends them.
    """
    from multiprocessing import resource_tracker

    if start_method() == "forkserver":
        resource_tracker.ensure_running()  # to start it lets interrupts in again
        with interrupts.held():  # it lets them in again (validation.run.preload)
            forked.SERVER.ensure_running()
        end_at_exit()


@functools.cache
def end_at_exit() -> None:
    """Have the fork server end with this process: while it imports, it does not see that it is alone."""
    atexit.register(_end)


def _end() -> None:
    if pid := forked.pid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def run_folder(keep: Path | None = None) -> Iterator[Path]:
    """A folder for what the ranks of one run leave behind, gone afterwards unless `keep` names it."""
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
        keep.mkdir(parents=True)
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="plumbline-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def launch(
    entry: Callable[..., None],
    arguments: tuple[Any, ...],
    ranks: int,
    folder: Path,
    timeout: float,
    progress: Callable[[str], None] = lambda step: None,
    turn: watching.Turn | None = None,
    left: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Run `entry(*arguments)` in `ranks` processes and return what each wrote. Raises RunBroke.

    Their time begins with their `turn`, if they have to wait for one (validation.run.held). `left` is called when all have
    left their findings, while their processes end.
    """
    with watched(folder, ranks, timeout, progress, turn=turn, left=left) as watch:
        try:
            unless_gone(lambda: _elastic(entry, arguments, ranks, folder), watch)
        except Exception as error:  # elastic's own errors have no common base that says more than what the ranks left
            raise RunBroke(post_mortem(folder, ranks, timeout, watch, failures(error), error)) from error
    return reports(folder, ranks)


class Gone(RuntimeError):
    """No rank of this machine lives any more, and elastic waits for what one of them returns."""


def unless_gone(run: Callable[[], None], watch: Watch) -> None:
    """Call `run`, which has elastic run this machine's ranks, and wait for it while there are ranks.

    elastic waits without end for what a rank returns that has ended with status 0 and without returning: it is left to wait.
    Raises elastic's errors, and Gone.
    """
    ended: list[Exception] = []

    def run_all() -> None:
        try:
            run()
        except Exception as error:  # elastic's own errors have no common base
            ended.append(error)

    thread = threading.Thread(target=run_all, name="elastic", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        if watch.gone.is_set():
            thread.join(2 * watching.GRACE)
            break
    if thread.is_alive():
        raise Gone("the ranks of this machine are gone")
    if ended:
        raise ended[0]


_POLL = 0.1
"""Seconds between two looks at whether there are ranks. The end of elastic is seen at once."""


def reports(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank of a run that has ended wrote. Raises RunBroke."""
    found = []
    for rank in range(ranks):
        try:
            found.append(json.loads((folder / f"rank-{rank}.json").read_text()))
        except OSError as error:
            broken = Broken(rank, f"rank {rank} ended without a report", stacks(folder, ranks))
            raise RunBroke(_of_full_disks(folder, ranks, broken)) from error
    return found


def _elastic(entry: Callable[..., None], arguments: tuple[Any, ...], ranks: int, folder: Path) -> None:
    store = meeting_place()
    endpoint = f"{loopback.ADDRESS}:{store.port}"
    meeting = {
        "min_nodes": 1,
        "max_nodes": 1,
        "run_id": uuid.uuid4().hex,
        "rdzv_backend": "static",
        "rdzv_configs": {"rank": 0},
    }
    agent(entry, arguments, ranks, folder, **meeting, rdzv_endpoint=endpoint, local_addr=loopback.ADDRESS)


def agent(entry: Callable[..., None], arguments: tuple[Any, ...], ranks: int, folder: Path, **meeting: Any) -> None:
    """Have an agent of torch elastic run the ranks of this machine. `meeting` is how it finds the others (LaunchConfig)."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _read_exit_codes_once()
    for name in ("torch.distributed.elastic", "torch.distributed.run", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        nproc_per_node=ranks,
        max_restarts=0,
        monitor_interval=0.02,
        start_method=start_method(),
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=Std.ALL),
        **meeting,
    )
    elastic_launch(config, entry)(*arguments)


@functools.cache
def _read_exit_codes_once() -> None:
    """Let one thread at a time ask a process of the fork server whether it has ended.

    Its exit code comes through a pipe and can be read once, and starting a process asks all others of this one: where two
    cases run at the same time, the thread that comes second would read nothing and make an exit status of 255 of it.
    https://github.com/python/cpython/blob/v3.11.7/Lib/multiprocessing/popen_forkserver.py
    """
    asking, poll = threading.RLock(), popen_forkserver.Popen.poll

    def one_at_a_time(self: Any, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None and flag != os.WNOHANG:
            connection.wait([self.sentinel])  # not while others are kept from asking
        with asking:
            return poll(self, flag)

    vars(popen_forkserver)["Popen"].poll = one_at_a_time


def meeting_place(address: str = loopback.ADDRESS) -> TCPStore:
    """The store that the ranks meet in, on a port that is free and stays ours: elastic takes it over, being in this process.

    Elastic's own way to a free port, the c10d rendezvous, reads the source of every caller for its log: 50 ms a case. And a
    store on port 0 cannot be taken over where this process had one on the same port before: torch looks for a dead store
    only under a port that it is given, so the socket is bound here.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listening.bind((address, 0))
    port = listening.getsockname()[1]
    return TCPStore(
        *(address, port),
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listening.detach(),
    )


def failures(error: Exception) -> list[tuple[int, int]]:
    """Rank and exit code of every process that elastic saw fail, the first to fail first."""
    failures = sorted(getattr(error, "failures", {}).items(), key=lambda item: item[1].timestamp)
    return [(rank, failure.exitcode) for rank, failure in failures]


def post_mortem(
    folder: Path,
    ranks: int,
    timeout: float,
    watch: Watch,
    failures: list[tuple[int, int]],
    otherwise: Exception | None = None,
    written: Sequence[Path] = (),
) -> Broken:
    """Which rank broke the run, and how. A time-out says nothing of who was late, so it names what each was doing.

    `failures` are ranks with their exit codes, the first to fail first; `otherwise` is what is known where there is none.
    `written` are folders that the ranks write into, beside the run's own.
    """
    return _of_full_disks(folder, ranks, _ended(folder, ranks, timeout, watch, failures, otherwise), written)


def _ended(
    folder: Path, ranks: int, timeout: float, watch: Watch, failures: list[tuple[int, int]], otherwise: Exception | None
) -> Broken:
    found = stacks(folder, ranks)
    if watch.vanished is not None and not (folder / f"rank-{watch.vanished}.error").exists():
        if code := dict(failures).get(watch.vanished):
            return _by_itself(folder, watch.vanished, code, found)
        doing = last_step(folder, watch.vanished) or "start"
        return Broken(watch.vanished, f"rank {watch.vanished} ended without a report in '{doing}'", found)
    if watch.timed_out:
        doing = "; ".join(f"rank {rank} in '{last_step(folder, rank) or 'start'}'" for rank in range(ranks))
        return Broken(None, f"the ranks {TIMED_OUT} {timeout:g} s ({doing}); raise --timeout or look at the stacks", found)
    raised = {rank: left for rank in range(ranks) if (left := _raised(folder, rank)) is not None}
    # Another rank may have been seen first that only lost its connection to this one.
    own = [(rank, 1) for rank, left in raised.items() if left["exit_code"] != ExitCode.INFRASTRUCTURE]
    for rank, code in own[:1] or failures:
        if rank in raised:
            left = raised[rank]
            return Broken(rank, f"rank {rank} raised {left['error']}", found, ExitCode(left["exit_code"]))
        return _by_itself(folder, rank, code, found)
    code = exit_code(otherwise) if otherwise is not None and exhausted.told(otherwise) else ExitCode.INFRASTRUCTURE
    return Broken(None, f"the ranks could not be started: {otherwise}", found, code)


def _by_itself(folder: Path, rank: int, code: int, found: str) -> Broken:
    """A rank that ended with this code and raised nothing."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return _without_a_word(folder, code, Broken(rank, f"rank {rank} {how} in '{last_step(folder, rank) or 'start'}'", found))


def _without_a_word(folder: Path, code: int, broken: Broken) -> Broken:
    """The same with what ended a rank that could leave no report: the machine may have run out of what it needs."""
    printed = [path.read_text(errors="replace") for path in folder.glob(f"logs/*/attempt_0/{broken.rank}/stderr.log")]
    words = exhausted.by_exit_code(code) or next(filter(None, map(exhausted.in_words, printed)), None)
    if words is None:
        return broken
    return replace(broken, sentence=f"{broken.sentence}: {words}", exit_code=ExitCode.ENVIRONMENT)


def _of_full_disks(folder: Path, ranks: int, broken: Broken, written: Sequence[Path] = ()) -> Broken:
    """The same with the folder that has no room left, where a rank has ended without a word: it may have had nowhere to say it.

    What starts ranks fails in many ways then, and tells of its own files' ends.
    """
    silent = any(not (folder / f"rank-{rank}.error").exists() for rank in range(ranks))
    if broken.exit_code != ExitCode.INFRASTRUCTURE or not silent:
        return broken
    place = next(filter(disk.is_full, (folder, Path(tempfile.gettempdir()), *written)), None)
    if place is None:
        return broken
    words = f"{exhausted.NO_ROOM} in {folder.parent if place == folder else place}"
    return replace(broken, sentence=f"{broken.sentence}: {words}", exit_code=ExitCode.ENVIRONMENT)


def _raised(folder: Path, rank: int) -> dict[str, Any] | None:
    """What a rank has left of an exception (validation.run.report), or None."""
    try:
        left: dict[str, Any] = json.loads((folder / f"rank-{rank}.error").read_text())
    except OSError:
        return None
    return left


def stacks(folder: Path, ranks: int) -> str:
    """Every stack that ranks have left."""
    found = []
    for rank in range(ranks):
        left, path = _raised(folder, rank), folder / f"rank-{rank}.stacks"
        texts = {"error": left["stack"] if left else "", "stacks": path.read_text() if path.exists() else ""}
        found += [f"--- rank {rank} {kind} ---\n{text}" for kind, text in texts.items() if text]
    return "\n".join(found)
