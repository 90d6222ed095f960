"""What joins checks, cases, terminal and files: a plugin of pytest."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci import junit
from validation.case import tree
from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.errors import ExitCode, PlumblineError, UsageError
from validation.checks import before, of_recipe, uncalled
from validation.checks.conclusion import Conclusion
from validation.checks.counted import OURS
from validation.checks.files import Files
from validation.checks.findings import Findings
from validation.checks.first import First
from validation.checks.items import parity_of, planted_of, section_of
from validation.checks.judging import ended_by
from validation.checks.left_out import LeftOut
from validation.checks.needs import Needs
from validation.checks.order import UNPLACED
from validation.checks.outcome import Outcome
from validation.checks.running import Running
from validation.checks.self_test import SelfTest
from validation.checks.styles import style_of
from validation.checks.tally import Tally
from validation.checks.terminal import RED, Silence, Style, Terminal, progress_of
from validation.checks.testcase import check_of
from validation.checks.titles import component_of, title_of
from validation.checks.uncollected import refusal
from validation.faults.plan import Plan, Plant
from validation.recipe import given
from validation.recipe.coverage import covered, properties
from validation.run.options import Given, Settings

if TYPE_CHECKING:
    from validation.run.result import Result


_COMPARES_NOTHING = "it compares nothing: a check that takes `parity` makes a statement, such as parity.agrees(probe)"


class Report:
    """Runs each case when its first check asks for it, has the terminal tell each check, and the files keep it.

    `given` is what `python -m validation` hands over when it has done the preflight, None if the user has started pytest.
    """

    def __init__(self, config: pytest.Config, settings: Settings, plan: Plan, given: Given | None = None) -> None:
        self._config, self._settings = config, settings
        self._prepared, self._question = given is not None, given.question if given else None
        self._selecting = given is None or bool(given.words or settings.only or settings.last_failed)
        self._self_test = SelfTest(plan, settings.cases[0])
        self._left_out = LeftOut(settings, self._self_test)
        self._files = Files(settings, self._self_test, given.words if given else ())
        self._progress = progress_of(config)
        self._running = Running(settings, self._progress, given.nodes if given else None)
        self._terminal = Terminal(config, self._progress)
        self._style: Style = Silence()
        self._tally = Tally()
        self._result: Result | None = None
        self._suite = ""
        self._wanted: list[Case] = []
        self._plants: list[Plant] = []
        self._needs: dict[Case, Needs] = {}
        self._says_how_it_ended: set[Case] = set()
        self._selected: Counter[Case] = Counter()
        self._checks: dict[str, list[junit.Check]] = defaultdict(list)
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._unsound: set[Case] = set()
        self._nothing = "No check was selected; leave out what selects checks, or name one that the output shows with --only"
        self._uncollected = False
        self._seconds: dict[str, float] = {}
        self._uncalled: dict[str, dict[str, str]] = {}
        self._overwritten: dict[str, dict[str, Value]] = {}
        self._start = self._began = time.monotonic()

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
            self._result, self._suite = None, self._self_test.name
            self._style.begin(self._suite, *self._self_test.heading)
            self._began = time.monotonic()
        self._start_once()
        return self._noted(self._running.planted(plant.case, plant.fault.plugin))

    def sound(self, plant: Plant) -> Result:
        """What the ranks of the same case find without the defect."""
        return self._noted(self._running.planted(plant.case))

    def fails_for(self, plant: Plant) -> bool:
        """Whether the self-test says that a case fails without a defect: once, if no case of the run itself fails."""
        first = plant.case not in self._unsound and not self._tally.first
        self._unsound.add(plant.case)
        return first

    def against_single(self, case: Case) -> Result | None:
        """The case compared with the candidate on one rank; None where that cannot be had."""
        return self._running.against_single(case)

    def without_bugs(self, case: Case) -> Result:
        """The result of the last case with its known upstream bugs taken out; waits for its ranks."""
        return self._noted(self._running.without_bugs(case))

    def again(self, case: Case) -> Result | None:
        """The result of the last case, run once more as it is, if this run tests itself."""
        found = self._running.again(case)
        return found and self._noted(found)

    def _undecided(self, result: Result) -> bool:
        """Whether the case's own run broke, and is kept for it; if a known bug ended it, the second run is judged instead."""
        undecided = result.broken is not None and ended_by(result, self) is None
        if undecided:
            self._noted(result)
        return undecided

    def _noted(self, found: Result) -> Result:
        """The same, having kept with what its run broke, if it did."""
        if found.broken is not None:
            self._tally.broke[self._suite] = found.broken.exit_code
        return found

    def _run(self, case: Case) -> Result:
        plugin = self._settings.plugin
        said = [f"Plugin: {plugin} runs in every rank; a gate takes no results of such a run"] if plugin else []
        self._style.begin(case.name, f"===== {case.title} =====", *said)
        self._start_once()
        result = self._running.result(case)
        self._style.ran(case.name)
        if result.broken is not None and case not in self._says_how_it_ended:
            self._terminal.write(f"ERROR: the run did not finish - {result.broken.sentence}", **RED)
            self._terminal.write(result.broken.stacks)
        return result

    def _start_once(self) -> None:
        """Every case that a selected check asks for, after a file that says it did not finish."""
        if self._running.started:
            return
        # A run that ends early may make few of its checks.
        early = bool(self._config.option.maxfail)
        self._files.begin({case: self._selected[case] for case in self._wanted}, len(self._plants), early)
        before.ASIDE.put_back()
        self._running.start(self._needs, self._plants)

    def pytest_exception_interact(self, node: Any, report: Any) -> None:
        """The first module whose checks cannot be collected ends the run."""
        if isinstance(report, pytest.CollectReport) and not self._uncollected:
            self._uncollected = True
            self.refuse(refusal(node, report))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Cases that no selected check asks for are not run. None is if the question that is asked of them refuses one."""
        try:
            if self._question is not None:
                self._question.check()
        except PlumblineError:  # raised again at the end of pytest
            session.items.clear()
            return
        self._selected.update(parity.case for parity in map(parity_of, session.items) if parity)
        self._wanted = [case for case in self._settings.cases if case in self._selected]
        self._plants = [planted.plant for planted in map(planted_of, session.items) if planted]
        of_run = [parity_of(item) for item in session.items if component_of(item) == "run"]
        self._says_how_it_ended = {parity.case for parity in of_run if parity}
        self._needs = dict.fromkeys(self._wanted, Needs())
        if self._selecting:
            items = [(parity.case, item) for item in session.items if (parity := parity_of(item))]
            self._needs = {case: Needs.of(case, [item for of, item in items if of == case]) for case in self._wanted}
        self._count_own(session.items)
        self._style = style_of(self._settings, self._terminal, self._progress, len(session.items))

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
        self._progress.close()
        self._running.close()

    def pytest_sessionstart(self) -> None:
        """Preflight, once the options are known and nothing has been started."""
        if self._config.option.collectonly or self._prepared:
            return
        from validation.checks import unstarted
        from validation.run.prepare import prepare

        try:
            before.ASIDE.take(unstarted.files(self._settings))
            taken = prepare(self._settings, [plant.case for plant in self._self_test.plan.plants])
            if taken.cases != self._settings.cases:
                raise UsageError(
                    "Megatron-Core refuses settings of the recipe together; "
                    f"`{tree.VALIDATION} run` leaves out the fewest of them and compares the rest"
                )
        except PlumblineError as error:
            pytest.exit(str(error), returncode=error.exit_code)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
        """Give the verdict to whoever reads the report."""
        report = yield
        stated = parity_of(item) or planted_of(item)
        if report.when == "call" and report.passed and stated is not None and stated.verdict is None:
            report.outcome, report.longrepr = "failed", _COMPARES_NOTHING
        report.verdict, report.section = stated.verdict if stated else None, section_of(item)[1]
        report.title, report.component = title_of(item), component_of(item)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """A check says its own line: pytest's letters would only break it."""
        return ("", "", "") if report.when == "call" or report.passed else None

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Have the check's line told, and keep it for the case's file."""
        if report.when != "call" and not (report.failed and report.when == "setup"):
            return
        outcome, result = Outcome.of(report), self._result
        undecided = result is not None and self._undecided(result)
        self._tally.count(self._suite, outcome, result.case if result else None)
        self._style.checked(outcome, undecided=undecided)
        if self._suite:
            check = check_of(report, outcome.status, outcome.verdict, outcome.line, outcome.details)
            self._add(self._reproducible(check, outcome), outcome.verdict.place if outcome.verdict else UNPLACED)
        elif outcome.status != "pass":  # of a user's test that asks about no case, before any case has begun
            self._terminal.write("\n".join(filter(None, (outcome.line, outcome.shown_details))), **RED)

    def _add(self, check: junit.Check, place: tuple[int, int]) -> None:
        """Keep it for the file of its case, in which checks stand in the flow of data: the first failure is the cause's."""
        places, checks = self._places[self._suite], self._checks[self._suite]
        at = bisect_right(places, place)
        places.insert(at, place)
        checks.insert(at, check)

    def _reproducible(self, check: junit.Check, outcome: Outcome) -> junit.Check:
        """The check with the command that runs it again, where it is about a case."""
        if self._result is None or check.status not in ("fail", "error", "known"):
            return check
        how = First.of(self._result.case, outcome.title, check.message, outcome.verdict).command(self._settings)
        return replace(check, properties={**check.properties, "reproduce": how})

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """The last case's file, the overall result, and the exit code."""
        self._finish_case()
        if self._question is not None and self._question.refused is not None:
            raise self._question.refused  # pytest ends with it, and has no word of its own
        if self._uncollected:
            self._terminal.write(self._nothing, **RED)
            session.exitstatus = ExitCode.USAGE
            return
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            return
        if not self._tally.checks:
            if not self._config.option.collectonly:
                self._terminal.write(self._nothing, **RED)
                session.exitstatus = ExitCode.USAGE
            return
        conclusion = self._conclusion()
        session.exitstatus = self._tally.exit_code
        for line, colours in conclusion.lines():
            self._terminal.write(line, **colours)
        for findings in self._findings:
            findings.take(conclusion, self._seconds)

    def refuse(self, error: UsageError) -> None:
        """The selection names no check: say that at the end, when there is nothing else to say."""
        self._nothing = f"error: {error}"
        for findings in self._findings:
            findings.refuse(error)

    @property
    def _findings(self) -> list[Findings]:
        return [one for one in self._config.pluginmanager.get_plugins() if isinstance(one, Findings)]

    def _conclusion(self) -> Conclusion:
        missing, all_checks = self._left_out.total(self._checks)
        self._tally.wrong |= (bool(missing) and not self._selecting) or self._tally.undecided_for_no_reason
        return Conclusion(
            settings=self._settings,
            self_test=self._self_test,
            files=self._files,
            tally=self._tally,
            checks=self._checks,
            wanted=self._wanted,
            how_it_went={case.name: self._how_it_went(case.name, self._checks.get(case.name, [])) for case in self._wanted},
            seconds=time.monotonic() - self._start,
            missing=missing,
            all_checks=all_checks,
            selecting=self._selecting,
        )

    def _finish_case(self) -> None:
        """Write the file of the testsuite whose checks have all been made."""
        name = self._suite
        checks = self._checks[name] if name else []
        if name == self._self_test.name:
            self._seconds[name] = time.monotonic() - self._began
            self._style.end(name, self._seconds[name])
            self._files.end_self_test(checks, self._how_it_went(name, checks))
        if self._result is not None:
            self._seconds[name] = self._result.seconds
            self._uncalled[name] = self._result.uncalled
            self._overwritten[name] = self._result.overwritten
            self._style.end(name, self._seconds[name])
            self._files.end(self._result, checks, self._how_it_went(name, checks))

    def _how_it_went(self, name: str, checks: Sequence[junit.Check]) -> dict[str, str]:
        """Properties of a testsuite: the exit code of a broken run behind it, and how many checks it lacks."""
        broke = {"broken": str(int(self._tally.broke[name]))} if name in self._tally.broke else {}
        case = next((case for case in self._settings.cases if case.name == name), None)
        broke |= {uncalled.PROPERTY: said} if (said := uncalled.said(self._uncalled.get(name, {}))) else {}
        of_case = (self._of_plugin(case, checks) | self._of_recipe(case, checks)) if case else {}
        return broke | of_case | self._left_out.properties(name, checks)

    def _of_plugin(self, case: Case, checks: Sequence[junit.Check]) -> dict[str, str]:
        """Of a case whose configuration a plugin changes: the fields, and those of them that no check shows."""
        if not (overwritten := self._overwritten.get(case.name, {})):
            return {}
        ran = of_recipe.ran(case, checks, self._left_out.count(case.name, checks), tuple(overwritten))
        hidden = given.said(given.hidden(ran, overwritten))
        return {of_recipe.OVERWRITTEN: ", ".join(overwritten), **({of_recipe.NOT_SHOWN: hidden} if hidden else {})}

    def _of_recipe(self, case: Case, checks: Sequence[junit.Check]) -> dict[str, str]:
        """Of a case of a recipe: the file, and what became of each of its settings in this case."""
        trial = self._settings.trial
        if trial is None:
            return {}
        overwritten = tuple(self._overwritten.get(case.name, {}))
        ran = of_recipe.ran(case, checks, self._left_out.count(case.name, checks), overwritten)
        return properties(trial, covered(trial, [ran]))
