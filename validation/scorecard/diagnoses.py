"""Every fault run in eight cases, and what a diagnosis makes of their testsuites."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci import junit
from ci.diagnosis import diagnose
from validation.case.case import Case
from validation.case.errors import ExitCode, UsageError
from validation.checks.facts import case_facts, case_file
from validation.checks.testcase import message_of
from validation.checks.verdicts import said_by
from validation.faults import catalogue
from validation.faults.fault import Fault
from validation.run.known import mended
from validation.run.options import Settings
from validation.scorecard.layouts import COUNT, diagnosed, has

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.launch import Broken
    from validation.run.result import Result

FAULTS = Path(catalogue.__file__).parents[1]
FOLDER = "diagnoses"
"""In the folder of results: a folder of testsuites for each fault."""
RIGHT, UNSURE, WRONG, SILENT = "right", "unsure", "wrong", "nothing fails"


@dataclass(frozen=True)
class Diagnosed:
    """What came of one fault: the layouts that failed and those that did not, and the diagnosis beside what it must name.

    `status` is right (the cause is named and nothing else), unsure (another is, and the diagnosis says that it is not certain),
    wrong (another is named for certain) or nothing fails. `seconds` is how long the ranks of all cases ran.
    """

    fault: str
    failing: tuple[str, ...]
    passing: tuple[str, ...]
    cause: str
    groups: tuple[str, ...]
    certain: bool
    status: str
    sentence: str = ""
    deciding: str = ""
    seconds: float = 0.0


def run(faults: Sequence[Fault], settings: Settings) -> Iterator[Diagnosed]:
    """What is made of each, in that order; the testsuites stay in the folder of results, a folder each fault."""
    from validation.run.runner import Runner

    runner = Runner(settings)
    try:
        for number, fault in enumerate(faults):
            for one in faults[number : number + 2]:  # the ranks of the next run while this one is judged
                _start(runner, one, diagnosed(one)[:COUNT])
            yield of(fault, _suites(runner, fault, settings.results / FOLDER / fault.id))
    finally:
        runner.close()


def _start(runner: Any, fault: Fault, cases: Iterable[Case]) -> None:
    for case in cases:
        runner.start([case, mended(case)], plugin_in(fault, case))


def _suites(runner: Any, fault: Fault, folder: Path) -> list[junit.Suite]:
    """Those of COUNT cases into which the fault can be put."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found: list[junit.Suite] = []
    for case in diagnosed(fault):
        _start(runner, fault, [case])
        suite = _suite(runner, fault, case)
        if suite is not None:
            junit.write(folder / case_file(case.name), suite)
            found.append(suite)
        if len(found) == COUNT:
            break
    return found


def kept(faults: Iterable[Fault], results: Path) -> Iterator[Diagnosed]:
    """What is made of the testsuites that an earlier run left. Raises UsageError if there are none of a fault."""
    for fault in faults:
        files = {case_file(case.name): results / FOLDER / fault.id / case_file(case.name) for case in diagnosed(fault)}
        suites = [junit.read(path) for path in files.values() if path.exists()]
        if not suites:
            raise UsageError(f"{results / FOLDER / fault.id} has no testsuites; leave --again out, and they are made")
        yield of(fault, suites)


def plugin_in(fault: Fault, case: Case) -> str:
    """The fault, or none in a case that has not what it describes."""
    return fault.plugin if all(has(case, one) for one in fault.needs.split()) else ""


def of(fault: Fault, suites: Sequence[junit.Suite]) -> Diagnosed:
    """The diagnosis of these testsuites beside what the fault's file says."""
    found, seconds = diagnose(suites), round(sum(suite.seconds for suite in suites), 2)
    failing = tuple(_name(suite) for suite in suites if _fails(suite))
    passing = tuple(_name(suite) for suite in suites if not _fails(suite))
    if found is None:
        return Diagnosed(fault.id, failing, passing, fault.named, (), False, SILENT, seconds=seconds)
    right = fault.named in found.groups and set(found.groups) <= fault.true
    status = RIGHT if right else WRONG if found.certain else UNSURE
    told = (found.groups, found.certain, status, found.sentence, found.deciding, seconds)
    return Diagnosed(fault.id, failing, passing, fault.named, *told)


def _fails(suite: junit.Suite) -> bool:
    return any(check.status in ("fail", "error") for check in suite.checks)


def _name(suite: junit.Suite) -> str:
    precision = suite.properties["precision"]
    return suite.properties["arrangement"] + ("" if precision == "fp64" else f" {precision}")


def _suite(runner: Any, fault: Fault, case: Case) -> junit.Suite | None:
    """The testsuite of a case with the fault; None if it has nothing to put the fault into, or cannot run."""
    there = _there(runner, fault, case)
    if there is None:
        return None
    result = there.result(case)
    ordered = sorted(said_by(case, there), key=lambda said: said[1].place)
    checks = tuple(_check(component, verdict) for component, verdict in ordered)
    broken = {"broken": str(int(result.broken.exit_code))} if result.broken is not None else {}
    return junit.Suite(case.name, checks, {**case_facts(case), **broken, "fault": fault.id}, result.seconds)


def _there(runner: Any, fault: Fault, case: Case) -> _There | None:
    """Where the results of a case come from: ranks with the fault, or without it if there is no such thing in it."""
    with_it = _There(runner, plugin_in(fault, case))
    broken = with_it.result(case).broken
    if broken is None:
        return with_it
    without = _There(runner, "")
    runner.start([case, mended(case)])
    if without.result(case).broken is not None:
        return None
    if not _of_the_fault(broken):
        return with_it
    return None if all(has(case, one) for one in fault.shown_with) else without


def _of_the_fault(broken: Broken) -> bool:
    """Whether a run broke in the fault's own functions: the rank holds nothing that they could change."""
    of_ranks = (re.findall(r'^  File "(.+?)", line', stack, re.MULTILINE) for stack in broken.stacks.split("--- rank "))
    raised = [Path(files[-1]) for files in of_ranks if files]
    return broken.exit_code == ExitCode.USAGE or any(FAULTS in path.parents for path in raised)


def _check(component: str, verdict: Verdict) -> junit.Check:
    message = message_of(verdict.status, verdict, verdict.line)
    said = (verdict.title, verdict.status, 0.0, message, verdict.line, verdict.properties, verdict.failure)
    return junit.Check(component, *said)


class _There:
    """The results of ranks with a fault."""

    def __init__(self, runner: Any, plugin: str) -> None:
        self._runner, self._plugin = runner, plugin
        self._alone: dict[Case, Result | None] = {}

    def result(self, case: Case) -> Result:
        """The case's; waits for its ranks."""
        found: Result = self._runner.result(case, self._plugin)
        return found

    def against_single(self, case: Case) -> Result | None:
        """The case compared with one rank that has the fault, too."""
        if case not in self._alone:
            self._alone[case] = self._runner.against_single(case, self._plugin)
        return self._alone[case]

    def without_bugs(self, case: Case) -> Result:
        """The same with the known upstream bugs taken out."""
        return self.result(mended(case))

    def again(self, case: Case) -> Result | None:
        """Nobody runs a fault once more."""
        return None
