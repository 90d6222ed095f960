"""Running cases: preflight, the reference once, the ranks, the result."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from validation.cache import forget, locks
from validation.case import disk
from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.reference import store
from validation.run import entry, jobs, launch, watch
from validation.run import plugin as plugins
from validation.run.diagnose import explained
from validation.run.held import HeldRanks
from validation.run.nodes.leading import Alone, Nodes
from validation.run.options import Settings
from validation.run.references import REFERENCES
from validation.run.report import READY
from validation.run.reproduce import alone
from validation.run.result import Result, merged

Progress = Callable[[Case, str], None]
_BEFORE_WORK = (READY, "process groups", "model")
"""What ranks say before their use of a GPU has begun."""


class Runner:
    """Runs the cases of one command; the reference is shared by all that have the same one.

    Cases are started in order, as many at a time as the settings say, or as is good here (validation.run.jobs).
    """

    def __init__(self, settings: Settings, progress: Progress = lambda case, step: None, nodes: Nodes | None = None) -> None:
        self._settings, self._progress = settings, progress
        self._nodes = nodes or Alone()
        self._jobs = settings.jobs or jobs.at_once(settings.cases)
        self._ahead = jobs.held(settings.cases, self._jobs) if isinstance(self._nodes, Alone) else 0
        self._holding = ThreadPoolExecutor(max_workers=2 * self._jobs + self._ahead, thread_name_prefix="held")
        self._held: dict[tuple[Case, str], HeldRanks] = {}
        self._all_held: list[HeldRanks] = []
        self._begun: set[tuple[Case, str]] = set()
        # Ranks begin beside those that end, if there is room for one more.
        overlapping = isinstance(self._nodes, Alone) and jobs.overlapping(settings.cases, self._jobs)
        self._overlapping = overlapping or self._ahead > self._jobs
        self._turns = ThreadPoolExecutor(max_workers=self._jobs, thread_name_prefix="turn")
        self._pool = ThreadPoolExecutor(max_workers=2 * self._jobs, thread_name_prefix="case")
        self._one_at_a_time = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reference")
        self._references: dict[str, Future[store.Reference]] = {}
        self._asking = threading.RLock()
        self._started: dict[tuple[Case, str], Future[Future[Result]]] = {}
        self._single: dict[tuple[Case, str], Path] = {}
        self._folders: list[Path] = []

    def start(self, cases: Iterable[Case], plugin: str = "") -> None:
        """Have these cases run, each once, in this order, their ranks with that plugin (validation.run.plugin)."""
        for case in dict.fromkeys(cases):
            if (case, plugin) in self._started:
                continue
            with self._asking:
                self._started[case, plugin] = self._turns.submit(self._in_turn, case, plugin)
            if self._jobs > 1:
                # There is room for more than one thing at a time: a reference is ready when its case's turn comes.
                self._asked(case)

    def all_started(self) -> None:
        """No more cases come: the process that computes references ends behind the last, if all have been asked for by now.

        Should a failure ask for another one, there is another process.
        """
        if self._jobs > 1:
            self._one_at_a_time.submit(REFERENCES.close)

    def result(self, case: Case, plugin: str = "") -> Result:
        """The result of a case that was started; waits for it."""
        return self._started[case, plugin].result().result()

    def _in_turn(self, case: Case, plugin: str) -> Future[Result]:
        """The case's result to come, returned when the next case may start: what its ranks have left is read meanwhile."""
        left = threading.Event()
        result = self._pool.submit(self.run, case, plugin, left.set)
        result.add_done_callback(lambda done: left.set())
        left.wait()
        return result

    def close(self, references: bool = True) -> None:
        """Start nothing more, and end what is still running, with the process that computes `references` or without."""
        pools = (self._turns, self._pool, self._one_at_a_time, self._holding)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for held in self._all_held:
            held.give_up()  # their start may not have come so far that they are seen
        watch.kill_all()
        if references:
            REFERENCES.close()
        for pool in pools:
            pool.shutdown(wait=True)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        locks.let_all_go()

    def run(self, case: Case, plugin: str = "", left: Callable[[], None] | None = None) -> Result:
        """The case's result; a run that breaks is a result, too. `left` is called when its ranks have no more to do."""
        start = time.monotonic()
        facts: dict[str, object] = {}
        with self._asking:
            self._begun.add((case, plugin))
            held = self._held.pop((case, plugin), None)
            if held is None and len(self._held) < self._ahead:
                held = self._holding_ranks(case, plugin)  # they get ready while the reference is computed
        try:
            reference = self._asked(case).result()
            if case.in_lockstep and not case.on_cpu:
                REFERENCES.rest()  # the case's own rank computes the reference, and may want all of the GPU
            start = time.monotonic()
            facts = reference.facts() | self._nodes.facts(case.layout.ranks)
            overlapping = {"left": left} if left is not None and self._overlapping else {}
            if held is not None:
                reports = held.reports(reference.folder, **overlapping)
            else:
                with launch.run_folder(self._debug_folder(case, plugin)) as folder:
                    reports = self._ranks(case, plugin, folder, str(reference.folder), **overlapping)
                    if left is not None:
                        left()
        except (launch.RunBroke, OSError) as error:
            if held is not None:
                held.give_up()
            broken = explained(case, launch.broken_by(error), in_ranks=bool(facts))
            return Result(case, time.monotonic() - start, facts, broken=self._with_plugin(broken, plugin))
        # What a case in lockstep has kept is good for a command that is cut while it judges: it goes when the command ends.
        self._folders += [Path(report["kept"]) for report in reports if "kept" in report]
        return merged(case, time.monotonic() - start, facts, reports)

    def _ranks(self, case: Case, plugin: str, folder: Path, reference: str, **also: Any) -> list[dict[str, Any]]:
        """What the case's ranks report. `also` is their turn, if they wait for one, and who is told that they have reported."""
        return self._nodes.launch(
            entry.rank,
            (*self._arguments(case, plugin, folder, reference), self._state(case)),
            case.layout.ranks,
            folder,
            self._settings.timeout,
            lambda step: self._told(case, step),
            **also,
        )

    def _told(self, case: Case, step: str) -> None:
        """A case's progress. As soon as its ranks use their GPU, those of the next ones may."""
        self._progress(case, step)
        if step not in _BEFORE_WORK:
            with contextlib.suppress(RuntimeError):  # nothing more is to be started: this has been closed
                self._hold_next()

    def _hold_next(self) -> None:
        """Start the ranks of the next cases that wait, of as many as are held here."""
        with self._asking:
            waiting = [key for key in self._started if key not in self._begun and key not in self._held]
            for key in waiting[: max(0, self._ahead - len(self._held))]:
                self._held[key] = self._holding_ranks(*key)

    def _holding_ranks(self, case: Case, plugin: str) -> HeldRanks:
        """The case's ranks, started now, which wait for their turn."""
        held = HeldRanks(
            launch.run_folder(self._debug_folder(case, plugin)),
            lambda folder, turn, left: self._ranks(case, plugin, folder, "", turn=turn, left=left),
            self._holding,
        )

        def known(reference: Future[store.Reference]) -> None:
            if not reference.cancelled() and reference.exception() is None:
                held.tell(reference.result().folder)

        self._all_held.append(held)
        self._asked(case).add_done_callback(known)
        return held

    def against_single(self, case: Case, plugin: str | None = None) -> Result | None:
        """The case compared with what one rank computes in its place; None where that cannot be had.

        It tells a sharding bug from a modelling bug, which one rank has as well. An isolated case's modules have the
        reference's inputs in either layout: there it is the one rank compared with the reference. One rank runs with the user's
        plugin, or with `plugin`, too: what that does to a model would else look like the layout's.
        """
        single, plugin = alone(case), self._settings.plugin if plugin is None else plugin
        if case.layout.ranks == 1:
            return None
        if case.isolated:
            found = self.run(single, plugin)
            return None if found.broken else found
        try:
            if (single, plugin) not in self._single:
                self._single[single, plugin] = self._of_one_rank(single, plugin)
            with launch.run_folder() as folder:
                arguments = self._arguments(case, plugin, folder, self._single[single, plugin])
                reports = self._nodes.launch(entry.rank, arguments, case.layout.ranks, folder, self._settings.timeout)
        except (launch.RunBroke, OSError):
            return None
        return merged(case, 0.0, {}, reports)

    def again(self, case: Case) -> Result:
        """The result of a case that has run, from ranks that run it once more, with the user's plugin."""
        reference, plugin = self._asked(case).result(), self._settings.plugin
        try:
            with launch.run_folder() as folder:
                arguments = self._arguments(case, plugin, folder, reference.folder)
                reports = self._nodes.launch(entry.rank, arguments, case.layout.ranks, folder, self._settings.timeout)
        except (launch.RunBroke, OSError) as error:
            broken = explained(case, launch.broken_by(error), in_ranks=True)
            return Result(case, 0.0, {}, broken=self._with_plugin(broken, plugin))
        return merged(case, 0.0, reference.facts(), reports)

    def _of_one_rank(self, case: Case, plugin: str) -> Path:
        """A folder like a reference's with what the candidate of one rank computes."""
        reference = self._asked(case).result()
        kept = Path(tempfile.mkdtemp(prefix="plumbline-single-"))
        self._folders.append(kept)
        shared = ("batch.safetensors", "weights.safetensors", "routing.safetensors", "reference.json", *store.OF_INFERENCE)
        for path in (reference.folder / name for name in shared):
            if path.exists():
                (kept / path.name).symlink_to(path.resolve())
        with launch.run_folder() as folder:
            arguments = self._arguments(case, plugin, folder, reference.folder, str(kept))
            launch.launch(entry.rank, arguments, 1, folder, self._settings.timeout)
        return kept

    def _state(self, case: Case) -> str:
        """Where a case in lockstep keeps what it goes on with if it is cut; nowhere if everything is asked for anew."""
        return str((self._settings.home / forget.LOCKSTEP).absolute()) if case.in_lockstep and not self._settings.fresh else ""

    def _arguments(self, case: Case, plugin: str, folder: Path, reference: Path | str, keep: str = "") -> tuple[object, ...]:
        """What ranks get that run with a plugin."""
        return (case.to_json(), str(folder), str(reference), self._settings.timeout, keep, plugins.absolute(plugin))

    def _with_plugin(self, broken: launch.Broken, plugin: str) -> launch.Broken:
        """How a run ended, with the user's plugin, which may be why it did."""
        if not self._settings.plugin or plugin != self._settings.plugin or plugins.absolute(plugin) in broken.sentence:
            return broken
        return replace(broken, sentence=f"{broken.sentence} (with plugin {plugin})")

    def _debug_folder(self, case: Case, plugin: str) -> Path | None:
        wanted = self._settings.debug and plugin == self._settings.plugin
        return self._settings.results / "debug" / case.name if wanted else None

    def _asked(self, case: Case) -> Future[store.Reference]:
        """The reference of the case, which many have in common: found or computed once, in the order of asking."""
        with self._asking:
            wanted = store.key(case)
            if wanted not in self._references:
                self._references[wanted] = self._one_at_a_time.submit(self._reference, case)
            return self._references[wanted]

    def _reference(self, case: Case) -> store.Reference:
        """The stored reference, computed first where there is none (or where a fresh one is asked for)."""
        stored = None if self._settings.fresh else store.find_serving(case, self._settings.home)
        if stored is not None:
            return stored
        if said := disk.shortage([disk.references([case], self._settings.home)]):  # what was free may have gone since the start
            raise launch.RunBroke(launch.Broken(None, said, "", ExitCode.ENVIRONMENT))
        REFERENCES.had(case, self._settings.home, self._settings.timeout, lambda step: self._progress(case, step))
        found = store.find(case, self._settings.home)
        if found is None:
            raise launch.RunBroke(launch.Broken(0, "the reference was computed but cannot be read back", ""))
        forget.keep_within(self._settings.home, self._settings.cache_limit)
        return found
