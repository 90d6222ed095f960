"""The lines that end a run: the overall result, the first failure of each case, and where the files are."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci.junit import Check
from ci.links import links
from validation.case import tree
from validation.case.case import Case
from validation.case.covered import without
from validation.case.errors import ExitCode
from validation.case.plural import many
from validation.case.strangers import listed
from validation.case.suggestions import join
from validation.case.unread import unread_of
from validation.case.words import PAGE, words_in
from validation.checks import before, left_out, of_recipe, uncalled
from validation.checks.diagnosed import diagnosed
from validation.checks.excused import excused
from validation.checks.files import Files
from validation.checks.labels import labels
from validation.checks.self_test import SelfTest
from validation.checks.tally import Tally
from validation.checks.terminal import GREEN, RED, YELLOW
from validation.recipe import given
from validation.recipe.coverage import Covered, Ran, covered, lines
from validation.recipe.told import Told
from validation.run.command_line import ALL, VERDICT
from validation.run.options import Settings

_WORDS = {"known": "with a known upstream bug", "unevaluated": "not evaluated"}
_OF_PLUGIN = {
    uncalled.PROPERTY: "no rank calls what the plugin replaces",
    of_recipe.NOT_SHOWN: "no check shows what the plugin sets",
}
"""Properties of a testsuite whose plugin does something in vain, and what that is."""
Line = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Conclusion:
    """What is known when the last check has been made.

    `checks` are those of each testsuite, `wanted` the cases that were run. `how_it_went` has the properties of each case's
    testsuite that say whether its run broke and how many checks it lacks. `missing` of `all_checks` were left out, because the
    user was `selecting` or for a reason that nobody gave.
    """

    settings: Settings
    self_test: SelfTest
    files: Files
    tally: Tally
    checks: Mapping[str, Sequence[Check]]
    wanted: Sequence[Case]
    how_it_went: Mapping[str, Mapping[str, str]]
    seconds: float
    missing: int
    all_checks: int
    selecting: bool

    def lines(self) -> Iterator[Line]:
        """All of them, with their colours; the verdict alone if that was asked for."""
        yield self._overall()
        if self.settings.show == VERDICT:
            return
        yield from ((line, RED) for line in diagnosed(self.wanted, self.checks, self.how_it_went, self.settings))
        yield from self._nearest()
        yield from self._known()
        yield from self._recipe()
        yield from self._uncalled()
        yield from self._unread()
        yield from self._firsts()
        yield from self._places()

    def _overall(self) -> Line:
        tally, cases = self.tally, len(self.settings.cases)
        counted = [many(tally.checks, "check")]
        counted += [
            f"{count} {_WORDS.get(status, status)}" for status, count in sorted(tally.counts.items()) if status != "pass"
        ]
        counted += [f"{self.missing} left out"] if self.missing else []
        if others := self._others:
            counted += [f"not the recipe itself: {without([one.said for one in others])}"]
        counted = ([f"{cases} cases"] if cases > 1 else []) + counted + [f"{self.seconds:.1f} s"]
        colour = GREEN if tally.exit_code == ExitCode.PASS else RED
        return f"===== Overall result: {tally.word} ({', '.join(counted)}) =====", colour

    @property
    def _labels(self) -> Mapping[Case, str]:
        return labels(self.settings.cases)

    @property
    def _others(self) -> tuple[Told, ...]:
        """Settings of the recipe that no case has."""
        return self.settings.trial.others if self.settings.trial else ()

    def _nearest(self) -> Iterator[Line]:
        if others := self._others:
            yield f"Not the recipe itself: compared without {join([one.said for one in others])}", YELLOW

    def _known(self) -> Iterator[Line]:
        for case in self.wanted:
            for bug in excused(check.properties for check in self.checks.get(case.name, ())):
                yield f"Known in {self._labels[case]}: {bug.line}", YELLOW

    def covered(self) -> tuple[Covered, ...]:
        """What became of each setting of the recipe in all cases together; nothing without one."""
        trial = self.settings.trial
        return covered(trial, [self._ran(case, self._left_out(case)) for case in self.wanted]) if trial else ()

    def not_shown(self) -> dict[str, str]:
        """Without a recipe: the settings that no case exercises, as `NAME=VALUE`, and why."""
        having = [case for case in self.wanted if case.training.settings] if self.settings.trial is None else []
        return given.not_shown([self._ran(case, 0) for case in having]) if having else {}

    def _ran(self, case: Case, left_out_: int) -> Ran:
        overwritten = self.how_it_went[case.name].get(of_recipe.OVERWRITTEN, "")
        return of_recipe.ran(case, self.checks.get(case.name, ()), left_out_, tuple(filter(None, overwritten.split(", "))))

    def _recipe(self) -> Iterator[Line]:
        if self.settings.trial is not None:
            page = f"{tree.CI} page --results {shlex.quote(str(self.settings.results))}"
            all_by = "" if self.settings.show == ALL else page
            yield from ((line, {}) for line in lines(self.settings.trial, self.covered(), all_by))
        else:
            yield from ((line, YELLOW) for line in given.lines(self.not_shown()))

    def _uncalled(self) -> Iterator[Line]:
        for named, said in _OF_PLUGIN.items():
            by_what: dict[str, list[str]] = {}
            for case in self.wanted:
                by_what.setdefault(self.how_it_went[case.name].get(named, ""), []).append(self._labels[case])
            by_what.pop("", None)
            for found, having in by_what.items():
                yield f"Not exercised in {', '.join(having)}: {said}: {found}", YELLOW

    def _unread(self) -> Iterator[Line]:
        for folder in dict.fromkeys(case.hf_model_path for case in self.settings.cases):
            if folder is not None and (names := unread_of(folder)):
                yield f"Not compared: {listed(names)} of config.json, which neither transformers nor Plumbline reads", YELLOW

    def _left_out(self, case: Case) -> int:
        return int(self.how_it_went[case.name].get(left_out.PROPERTY, 0))

    def _firsts(self) -> Iterator[Line]:
        said = ""
        for case in self.wanted:
            if case.name in self.tally.first:
                first = self.tally.first[case.name]
                said += f"{first.line}\n"
                yield f"First in {self._labels[case]}: {first.line}", {}
                yield f"Reproduce: {first.command(self.settings)}", {}
        if words := ", ".join(word.name for word in words_in(said)):
            yield f"What the words mean: {links(os.environ).docs or 'docs'}/{PAGE} ({words})", {}

    def _places(self) -> Iterator[Line]:
        for name in (*(case.name for case in self.settings.cases), self.self_test.name):
            if name in self.checks:
                yield f"JUnit: {self.files.path(name)}", {}
        if said := before.told(self.files.kept, self.tally.checks):
            yield said, {}
        if self.missing:
            yield f"Left out: {self.missing} of {many(self.all_checks, 'check')}; {self._why_left_out()}", YELLOW

    def _why_left_out(self) -> str:
        if self.selecting:
            return "a gate takes no results of such a run"
        return "nothing was given behind --, so something on this machine changes what pytest collects; find and remove it"
