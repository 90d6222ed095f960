"""The cases of a run: started when the first check asks for a result, and waited for. Tells the terminal what they do."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.checks.needs import Needs
from validation.checks.progress import Progress
from validation.faults.plan import Plant
from validation.run.known import mended
from validation.run.options import Settings

if TYPE_CHECKING:
    from validation.run.nodes.leading import Nodes
    from validation.run.result import Result


class Running:
    """Starts what has been selected and answers with results."""

    def __init__(self, settings: Settings, progress: Progress, nodes: Nodes | None = None) -> None:
        self._settings, self._progress, self._nodes = settings, progress, nodes
        self._runner: Any = None
        self._as_run: dict[Case, Case] = {}
        """Each case as its ranks get it, which may end early."""
        self._against_single: dict[Case, Result | None] = {}
        self._without_bugs: dict[Case, Result] = {}
        self._again: dict[Case, Result] = {}

    @property
    def started(self) -> bool:
        """Whether anything runs."""
        return self._runner is not None

    def start(self, cases: Mapping[Case, Needs], plants: Sequence[Plant]) -> None:
        """Have these run, as far as each is needed. Imports torch: what an earlier run left must be gone by then."""
        from validation.run.runner import Runner

        self._runner = Runner(self._settings, self._progress.show, self._nodes)
        # torch alone is half a million objects: left to the collector, it goes through them while the checks run.
        gc.freeze()
        for case, needs in cases.items():
            # A case with known upstream bugs has a second run, without them, which judges what lies behind them.
            for one in (case, mended(case)) if needs.without_bugs else (case,):
                self._as_run[one] = replace(one, upto=needs.upto)
        self._runner.start(self._as_run.values(), self._settings.plugin)
        self._runner.start(plant.case for plant in plants)
        for plant in plants:
            self._runner.start([plant.case], plant.fault.plugin)
        self._runner.all_started()

    def result(self, case: Case) -> Result:
        """That of a case, whose ranks run with the user's plugin; waits for them."""
        with self._progress.watching(self._as_run[case]):
            found: Result = self._runner.result(self._as_run[case], self._settings.plugin)
        return self._with_its_plugin(replace(found, case=case))

    def _with_its_plugin(self, found: Result) -> Result:
        """The result, broken if the user's plugin did nothing: then nothing of it was tried."""
        if found.broken is not None or not (self._settings.plugin and found.in_vain):
            return found
        from validation.run.launch import Broken

        said = f"plugin {self._settings.plugin} did nothing in {found.case.arrangement}: {found.in_vain}"
        return replace(found, broken=Broken(None, said, "", ExitCode.USAGE))

    def planted(self, case: Case, plugin: str = "") -> Result:
        """That of a case of the self-test, with a planted defect or as it is."""
        with self._progress.watching(case):
            found: Result = self._runner.result(case, plugin)
        return found

    def against_single(self, case: Case) -> Result | None:
        """The case compared with the candidate on one rank, run when a check first fails; None where that cannot be had."""
        if case not in self._against_single:
            as_run = self._as_run[case]
            self._progress.show(as_run, "what one rank computes")
            with self._progress.watching(as_run):
                self._against_single[case] = self._runner.against_single(as_run)
        return self._against_single[case]

    def without_bugs(self, case: Case) -> Result:
        """The result of a case with its known upstream bugs taken out."""
        if case not in self._without_bugs:
            self._without_bugs[case] = self.result(case)
        return self._without_bugs[case]

    def again(self, case: Case) -> Result | None:
        """The result of a case with known upstream bugs, run once more as it is, if the run tests itself; else None.

        Only on a CPU, where the same code makes the same bytes, and not layer by layer, where a run takes long.
        """
        if not (self._settings.self_test and case.on_cpu and mended(case) in self._as_run) or case.training.stream:
            return None
        if case not in self._again:
            as_run = self._as_run[case]
            self._progress.show(as_run, "the same once more")
            with self._progress.watching(as_run):
                self._again[case] = replace(self._runner.again(as_run), case=case)
        return self._again[case]

    def close(self) -> None:
        """Leave nothing running, however the run ends."""
        if self._runner is not None:
            self._runner.close()
