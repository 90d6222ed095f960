"""What the user sees while checks run, and the JUnit file of every case."""

from __future__ import annotations

import gc
import shlex
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci import commit, junit, names, run
from validation.case.case import Case
from validation.case.errors import ExitCode, PlumblineError
from validation.checks import before
from validation.checks.counted import OURS
from validation.checks.excused import Excused, excused
from validation.checks.facts import case_facts, case_file
from validation.checks.first import First
from validation.checks.items import parity_of, planted_of, section_of
from validation.checks.left_out import LeftOut
from validation.checks.order import UNPLACED
from validation.checks.printed import printed
from validation.checks.progress import ProgressLine
from validation.checks.self_test import SelfTest
from validation.checks.testcase import check_of, ranks_of
from validation.checks.titles import component_of, title_of
from validation.faults.plan import Plan, Plant
from validation.machine import machine
from validation.run.known import mended
from validation.run.options import Given, Settings
from validation.run.reproduce import command

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.result import Result


class Report:
    """Runs each case when its first check asks for it, prints a line per check, writes a JUnit file per case.

    `prepared` says that preflight is done, `selecting` that the user has given words to pytest, which may leave checks out.
    """

    def __init__(self, config: pytest.Config, settings: Settings, plan: Plan, prepared: bool, selecting: bool = False) -> None:
        self._config, self._settings, self._prepared, self._selecting = config, settings, prepared, selecting
        self._self_test = SelfTest(plan, settings.cases[0])
        self._left_out = LeftOut(settings, self._self_test)
        self._runner: Any = None
        self._result: Result | None = None
        self._against_single: dict[Case, Result | None] = {}
        self._without_bugs: dict[Case, Result] = {}
        self._section = self._suite = ""
        self._wanted: list[Case] = []
        self._plants: list[Plant] = []
        self._selected: Counter[str] = Counter()
        self._kept: list[before.Kept] = []
        self._checks: dict[str, list[junit.Check]] = defaultdict(list)
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._unsound: set[Case] = set()
        self._counts: Counter[str] = Counter()
        self._first: dict[str, First] = {}
        self._broke: dict[str, ExitCode] = {}
        """With what the run behind a testsuite broke, if it did."""
        self._wrong = False
        self._start = time.monotonic()
        self._progress = ProgressLine(config)
        self._machine: dict[str, str] = {}
        self._commit: dict[str, str] = {}
        self._run_of = run.begun()

    def result(self, case: Case) -> Result:
        """The case's result; runs it unless it is the one last asked for."""
        if self._result is None or self._result.case != case:
            self._finish_case()
            capture: Any = self._config.pluginmanager.getplugin("capturemanager")
            with capture.global_and_fixture_disabled():
                self._result, self._suite = self._run(case), case.name
        return self._result

    def planted(self, plant: Plant) -> Result:
        """What the ranks with a planted defect found; waits for them."""
        if self._suite != self._self_test.name:
            self._finish_case()
            self._result, self._section, self._suite = None, "", self._self_test.name
            for line in self._self_test.heading:
                self._write(line)
        if self._runner is None:
            self._start_cases()
        return self._planted(plant.case, plant.fault.plugin)

    def sound(self, plant: Plant) -> Result:
        """What the ranks of the same case find without the defect."""
        return self._planted(plant.case)

    def fails_for(self, plant: Plant) -> bool:
        """Whether the self-test says that a case fails without a defect: once, if no case of the run itself fails."""
        first = plant.case not in self._unsound and not self._first
        self._unsound.add(plant.case)
        return first

    def _planted(self, case: Case, plugin: str = "") -> Result:
        found: Result = self._runner.result(case, plugin)
        if found.broken is not None:
            self._broke[self._suite] = found.broken.exit_code
        return found

    def against_single(self, case: Case) -> Result | None:
        """The case compared with the candidate on one rank, run when a check first fails; None where that cannot be had."""
        if case not in self._against_single:
            self._progress.show(case, "what one rank computes")
            self._progress.watch(case)
            self._against_single[case] = self._runner.against_single(case)
            self._progress.watch(None)
        return self._against_single[case]

    def without_bugs(self, case: Case) -> Result:
        """The result of the last case with its known upstream bugs taken out; waits for its ranks."""
        if case not in self._without_bugs:
            self._progress.watch(case)
            self._without_bugs[case] = self._runner.result(case, self._settings.plugin)
            self._progress.watch(None)
        found = self._without_bugs[case]
        if found.broken is not None:
            self._broke[self._suite] = found.broken.exit_code
        return found

    def _run(self, case: Case) -> Result:
        self._section = ""
        self._write(f"===== {case.title} =====")
        if self._settings.plugin:
            self._write(
                f"Plugin: {self._settings.plugin} runs in every rank; a gate takes no results of such a run", yellow=True
            )
        if self._runner is None:
            self._start_cases()
        self._progress.watch(case)
        result: Result = self._runner.result(case, self._settings.plugin)
        self._progress.watch(None)
        for line in printed(self._settings.results / "debug" / case.name) if self._settings.debug else ():
            self._write(line)
        return result

    def _start_cases(self) -> None:
        """Every case that a selected check asks for, after a file that says it did not finish."""
        self._machine, self._commit = machine(), commit.facts()
        for case in self._wanted:
            facts = self._facts(case, {})
            with _ending_the_run(self._path(case)):
                self._keep(self._path(case), facts, self._selected[case.name])
                junit.write_unfinished(self._path(case), case.name, facts)
        if self._plants:
            with _ending_the_run(self._self_test_file()[0]):
                self._keep(self._self_test_file()[0], {}, len(self._plants))
                junit.write_unfinished(*self._self_test_file(), self._self_test.properties(self._common_facts()))
        before.ASIDE.put_back()
        # Imports torch: what an earlier run left must be gone by then.
        from validation.run.runner import Runner

        self._runner = Runner(self._settings, self._progress.show)
        # torch alone is half a million objects: left to the collector, it goes through them while the checks run.
        gc.freeze()
        # A case with known upstream bugs has a second run, without them, which judges what lies behind them.
        both = [one for case in self._wanted for one in (case, mended(case))]
        self._runner.start(both, self._settings.plugin)
        self._runner.start(plant.case for plant in self._plants)
        for plant in self._plants:
            self._runner.start([plant.case], plant.fault.plugin)

    def _keep(self, path: Path, facts: dict[str, str], checks: int) -> None:
        """What an earlier run left at `path`, where it is worth more. A run that ends early may make few of its checks."""
        kept = before.ASIDE.settle(path, facts, 0 if self._config.option.maxfail else checks)
        self._kept += [kept] if kept else []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Cases that no selected check asks for are not run."""
        asked = {parity.case for parity in map(parity_of, session.items) if parity}
        self._wanted = [case for case in self._settings.cases if case in asked]
        self._selected.update(parity.case.name for parity in map(parity_of, session.items) if parity)
        self._plants = [planted.plant for planted in map(planted_of, session.items) if planted]
        self._count_own(session.items)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Called by whatever deselects checks."""
        self._count_own(items)

    def _count_own(self, items: Sequence[pytest.Item]) -> None:
        """Have checks of a user's own modules counted, too: only pytest knows of them."""
        for item in items:
            parity, component = parity_of(item), component_of(item)
            if parity and component not in OURS:
                self._left_out.also(parity.case.name, (component, title_of(item)))

    def pytest_unconfigure(self) -> None:
        """Nothing is left running, however this ends."""
        if self._runner is not None:
            self._runner.close()

    def pytest_sessionstart(self) -> None:
        """Preflight, once the options are known and nothing has been started."""
        if self._config.option.collectonly or self._prepared:
            return
        from validation.checks import unstarted
        from validation.run.prepare import prepare

        try:
            before.ASIDE.take(unstarted.files(self._settings))
            prepare(self._settings, [plant.case for plant in self._self_test.plan.plants])
        except PlumblineError as error:
            pytest.exit(str(error), returncode=error.exit_code)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
        """Give the verdict to whoever reads the report."""
        report = yield
        stated = parity_of(item) or planted_of(item)
        report.verdict, report.section = stated.verdict if stated else None, section_of(item)[1]
        report.title, report.component = title_of(item), component_of(item)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """A check says its own line: pytest's letters would only break it."""
        return ("", "", "") if report.when == "call" or report.passed else None

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Print the check's line, and keep it for the case's file."""
        if report.when != "call" and not (report.failed and report.when == "setup"):
            return
        verdict: Verdict | None = report.verdict
        status = verdict.status if verdict else ("pass" if report.passed else "error")
        line = verdict.line if verdict else f"{status.upper()}: {report.title}"
        details = "" if verdict or not report.failed else report.longreprtext
        self._count(status, line, verdict, report.nodeid)
        self._print(report.section, status, line, verdict, details)
        if self._suite:
            check = check_of(report, status, verdict, line, details)
            if status in ("fail", "error", "known"):
                check = self._reproducible(check, report.nodeid, verdict)
            self._add(check, verdict.place if verdict else UNPLACED)

    def _add(self, check: junit.Check, place: tuple[int, int]) -> None:
        """Keep it for the file of its case, in which checks stand in the flow of data, the nearest to a cause first."""
        places, checks = self._places[self._suite], self._checks[self._suite]
        at = bisect_right(places, place)
        places.insert(at, place)
        checks.insert(at, check)

    def _reproducible(self, check: junit.Check, node: str, verdict: Verdict | None) -> junit.Check:
        """The check with the command that runs it again, where it is about a case."""
        if self._result is None:
            return check
        how = First.of(self._result.case, node, check.message, verdict).command(self._settings)
        return replace(check, properties={**check.properties, "reproduce": how})

    def _count(self, status: str, line: str, verdict: Verdict | None, check: str) -> None:
        self._counts[status] += 1
        if status in ("fail", "error") and self._result is not None:
            found = First.of(self._result.case, check, line, verdict)
            name = self._result.case.name
            self._first[name] = min(self._first.get(name, found), found, key=lambda first: first.place)
        if self._result is not None and self._result.broken is not None:
            self._broke[self._suite] = self._result.broken.exit_code
        self._wrong |= status == "fail" or (status == "error" and self._suite not in self._broke)

    def _print(self, section: str, status: str, line: str, verdict: Verdict | None, details: str) -> None:
        undecided = self._result is not None and self._result.broken is not None
        if undecided and verdict is not None and not verdict.details:
            return  # one line says that the run broke; a hundred would hide it
        if section != self._section and not undecided:
            self._section = section
            self._write(f"--- {section} ---")
        colours: dict[str, Any] = {"pass": {}, "known": {"yellow": True}, "unevaluated": {"yellow": True}}
        self._write(line, **colours.get(status, {"red": True}))
        shown = details or (verdict.details if verdict else "")
        if self._settings.debug and verdict:
            from validation.compare.verdict import piece_lines

            shown += "\n".join(f"    {line}" for line in piece_lines(verdict))
        if shown:
            self._write(shown)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """The last case's file, the overall result, and the exit code."""
        self._finish_case()
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            return
        if not self._counts:
            if not self._config.option.collectonly:
                self._write("No check was selected; leave out -k, or name something that `--collect-only` lists", red=True)
                session.exitstatus = ExitCode.USAGE
            return
        missing, all_checks = self._left_out.total(self._checks)
        self._wrong |= bool(missing) and not self._selecting
        # Whatever it was that made them so, nothing else says that the run is not green.
        self._wrong |= bool(self._counts["unevaluated"]) and not (self._counts["fail"] or self._counts["error"] or self._broke)
        code = self._exit_code()
        session.exitstatus = code
        word = "PASS" if code == ExitCode.PASS else "FAIL" if self._wrong else "ERROR"
        counted = [f"{sum(self._counts.values())} checks"]
        words_of = {"known": "known upstream bugs", "unevaluated": "not evaluated"}
        found = sorted(self._counts.items())
        counted += [f"{count} {words_of.get(status, status)}" for status, count in found if status != "pass"]
        counted += [f"{missing} left out"] if missing else []
        cases = len(self._settings.cases)
        counted = ([f"{cases} cases"] if cases > 1 else []) + counted + [f"{time.monotonic() - self._start:.1f} s"]
        colour = {"green": True} if code == ExitCode.PASS else {"red": True}
        self._write(f"===== Overall result: {word} ({', '.join(counted)}) =====", **colour)
        for case in self._wanted:
            for bug in self._excused(case):
                self._write(f"Known in {case.arrangement}: {bug.line}", yellow=True)
        for case in self._wanted:
            if case.name in self._first:
                first = self._first[case.name]
                self._write(f"First in {case.arrangement}: {first.line}")
                self._write(f"Reproduce: {first.command(self._settings)}")
        for case in self._settings.cases:
            if case.name in self._checks:
                self._write(f"JUnit: {self._path(case)}")
        if self._self_test.name in self._checks:
            self._write(f"JUnit: {self._self_test_file()[0]}")
        if said := before.told(self._kept, sum(self._counts.values())):
            self._write(said)
        if missing:
            self._write(f"Left out: {missing} of {all_checks} checks; {self._why_left_out()}", yellow=True)

    def _why_left_out(self) -> str:
        if self._selecting:
            return "a gate takes no results of such a run"
        return "nothing was given behind --, so something on this machine changes what pytest collects; find and remove it"

    def _exit_code(self) -> ExitCode:
        """The lowest outweighs the others: only what is undecided for want of machines may be tried again."""
        return ExitCode.FAIL if self._wrong else min(self._broke.values(), default=ExitCode.PASS)

    def _self_test_file(self) -> tuple[Path, str]:
        """The path, and the name of the testsuite in it."""
        return self._settings.results / case_file(self._self_test.name), self._self_test.name

    def _finish_case(self) -> None:
        if self._suite == self._self_test.name:
            path, name = self._self_test_file()
            more = self._how_it_broke(name) | self._left_out.properties(name, self._checks[name])
            _written(path, self._self_test.suite(self._checks[name], self._common_facts() | more))
        if self._result is None:
            return
        case, result = self._result.case, self._result
        checks = self._checks[case.name]
        facts = self._facts(case, {key: value for key, value in result.facts.items() if not isinstance(value, (list, dict))})
        suite = junit.Suite(
            name=case.name,
            checks=tuple(checks),
            properties=facts
            | ranks_of(result)
            | {f"known_{bug.bug}": bug.line for bug in self._excused(case)}
            | self._how_it_broke(case.name)
            | self._left_out.properties(case.name, checks)
            | {"reproduce": command(case, "", self._settings)},
            seconds=result.seconds,
            timestamp=time.strftime("%Y-%m-%dT%H:%M:%S"),
        )
        _written(self._path(case), suite)

    def _excused(self, case: Case) -> tuple[Excused, ...]:
        """What known upstream bugs hide in a case."""
        return excused(check.properties for check in self._checks[case.name])

    def _how_it_broke(self, name: str) -> dict[str, str]:
        """The exit code that a broken run behind a testsuite ends with, as a property of it."""
        return {"broken": str(int(self._broke[name]))} if name in self._broke else {}

    def _path(self, case: Case) -> Path:
        return self._settings.results / case_file(case.name)

    def _facts(self, case: Case, more: dict[str, Any]) -> dict[str, str]:
        more_facts = {key: str(value) for key, value in more.items()}
        return {**case_facts(case), **self._common_facts(), **self._of_plugin(), **more_facts}

    def _common_facts(self) -> dict[str, str]:
        return {
            "command": self._settings.command,
            junit.RUN: self._run_of,
            **names.session(),
            **self._for_pytest(),
            **self._commit,
            **self._machine,
        }

    def _of_plugin(self) -> dict[str, str]:
        """That the ranks ran with a plugin, where they did: those of the self-test do not."""
        return {"plugin": self._settings.plugin} if self._settings.plugin else {}

    def _for_pytest(self) -> dict[str, str]:
        """What a user gave pytest behind `--`: a plugin of pytest can change what a check says."""
        given = next((one for one in self._config.pluginmanager.get_plugins() if isinstance(one, Given)), None)
        return {"pytest_options": shlex.join(given.words)} if given and given.words else {}

    def _write(self, line: str, **colours: bool) -> None:
        # In one piece: unbuffered, as CI systems set it, every write is a system call.
        self._config.get_terminal_writer().write(f"{line}\n", **colours)


def _written(path: Path, suite: junit.Suite) -> None:
    """A testsuite's file."""
    with _ending_the_run(path):
        junit.write(path, suite)


@contextmanager
def _ending_the_run(path: Path) -> Iterator[None]:
    """Within it a disk that is full ends the run, for what nobody can read proves nothing."""
    try:
        yield
    except OSError as error:
        pytest.exit(f"{path} cannot be written: {error.strerror}", returncode=ExitCode.ENVIRONMENT)
