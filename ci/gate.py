"""`python -m ci gate`: manifest and results make one verdict. Red has its reasons, each a sentence; green needs all of it."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci import attempts, coverage, needs, reproduction, run
from ci.diagnosis import Diagnosis, diagnose
from ci.escape import plain
from ci.expected import Expected, Manifest, UnreadableManifest, load
from ci.folder import Results
from ci.junit import Suite, UnreadableResults
from ci.nearest import nearest
from ci.reasons import DIRTY, RED, Origin, is_red, of_suite, unevaluated
from validation.case import tree
from validation.case.errors import ExitCode, UsageError
from validation.case.plural import many

_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MOST_SAID = 200
"""Reasons that a log shows."""


@dataclass(frozen=True)
class Judgement:
    """`reasons` are pairs of where and why; without one the results are green. `suites` are those that could be read."""

    reasons: tuple[tuple[str, str], ...]
    suites: tuple[tuple[Expected, Suite], ...]

    @property
    def green(self) -> bool:
        """Whether this may be merged."""
        return not self.reasons

    @property
    def statuses(self) -> Counter[str]:
        """How many checks of each status there are."""
        return Counter(check.status for _, suite in self.suites for check in suite.checks)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What the testsuites that fail have in common."""
        return diagnose([suite for _, suite in self.suites])

    @property
    def reproduce(self) -> str:
        """The command that runs the first failure of the first testsuite that fails; empty if none is known."""
        red = (next((check for check in suite.checks if check.status in RED), None) for _, suite in self.suites)
        return next((how for check in red if check and (how := reproduction.command(check))), "")

    @property
    def counted(self) -> str:
        """What there is, in a few words."""
        statuses = self.statuses
        words = {
            "pass": "pass",
            "fail": "fail",
            "error": "not decided",
            "unevaluated": "not evaluated",
            "known": "with a known upstream bug",
        }
        said = [f"{statuses[status]} {word}" for status, word in words.items() if statuses[status]]
        suites = many(len(self.suites), "testsuite")
        return f"{suites}, {many(sum(statuses.values()), 'check')}: {', '.join(said) or 'nothing'}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_judging_options(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one document (docs/json.md)")


def add_judging_options(parser: argparse.ArgumentParser, without_manifest: str = "") -> None:
    """Those that others have, too, which need a verdict; `without_manifest` says what those then do."""
    what = f"what {tree.CI} manifest wrote" + (f"; {without_manifest}" if without_manifest else "")
    parser.add_argument("--manifest", required=not without_manifest, metavar="M", help=what)
    parser.add_argument("--results", required=True, metavar="DIR", help="the JUnit files, or folders results-SESSION of them")
    parser.add_argument(
        "--commit", default=None, metavar="SHA", help="that the results must be made on (default: the manifest's)"
    )
    parser.add_argument(
        "--megatron-commit", default=None, metavar="SHA", help="of the Megatron checkout that must have been run"
    )
    parser.add_argument("--needs", default=None, metavar="JSON", help="${{ toJSON(needs) }}: every job must have succeeded")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="take results of changed files (to try it on one's own machine)"
    )
    coverage.add_option(parser)


def main(options: argparse.Namespace) -> int:
    """0 green, 1 red."""
    judged = judge(options)
    if not judged.green and (found := judged.diagnosis):
        sys.stdout.writelines(("Diagnosis: ", *(f"{plain(line, 1000)}\n" for line in found.lines)))
        options.document["diagnosis"] = {"sentence": plain(f"{found.sentence}.", 1000), "deciding": plain(found.deciding, 1000)}
    for where, why in judged.reasons[:MOST_SAID]:
        sys.stdout.write(f"red: {plain(where, 200)}: {plain(why, 1000)}\n")
    if len(judged.reasons) > MOST_SAID:
        sys.stdout.write(f"and {many(len(judged.reasons) - MOST_SAID, 'more reason')}\n")
    if judged.reproduce:
        sys.stdout.write(f"Reproduce: {plain(judged.reproduce, reproduction.LONGEST)}\n")
    for where, told in tried_again(judged):
        sys.stdout.write(f"tried again: {plain(where, 200)}: {plain(told)}\n")
    for recipe, said in coverage.not_compared(suite for _, suite in judged.suites):
        sys.stdout.write(f"not the recipe itself: {plain(recipe, 200)}: {plain(said, 1000)}\n")
    options.document |= {
        "testsuites": len(judged.suites),
        "counts": dict(judged.statuses),
        "reasons": [{"where": plain(where, 200), "why": plain(why, 1000)} for where, why in judged.reasons],
    }
    word = "GREEN" if judged.green else f"RED, {many(len(judged.reasons), 'reason')}"
    sys.stdout.write(f"===== Gate: {word} ({judged.counted}) =====\n")
    return int(ExitCode.PASS if judged.green else ExitCode.FAIL)


def judge(options: argparse.Namespace) -> Judgement:
    """The verdict on what the options name. Raises UsageError for options that cannot be meant."""
    for name in ("commit", "megatron_commit"):
        said = getattr(options, name)
        if said and not _SHA.fullmatch(said):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {said}: give all 40 digits, as `git rev-parse HEAD` prints them")
    share = coverage.demanded(options)
    jobs = [_split(reason) for reason in needs.reasons(options.needs)] if options.needs is not None else []
    try:
        manifest = load(Path(options.manifest))
    except UnreadableManifest as error:
        return Judgement((*jobs, ("manifest", str(error))), ())
    origin = Origin(options.commit or manifest.commit, options.megatron_commit or "", options.allow_dirty)
    found = judged(manifest, Results(Path(options.results)), origin, share)
    return Judgement((*jobs, *found.reasons), found.suites)


def _split(reason: str) -> tuple[str, str]:
    where, _, why = reason.partition(": ")
    return where, why


def judged(manifest: Manifest, results: Results, origin: Origin, share: float | None = None) -> Judgement:
    """The verdict on results, by the manifest. What is of other sessions or of other runs makes it neither green nor red.

    `share` of each recipe's settings must be equal; None leaves that to the manifest.
    """
    results = results.of(suite.session for suite in manifest.suites)
    reasons = [("manifest", why) for why in _of_manifest(manifest, origin)]
    suites = []
    named = {expected.file for expected in manifest.suites}
    explained = set()
    for expected in manifest.suites:
        where = results.name(expected)
        try:
            suite = results.suite(expected.session, expected.file)
        except UnreadableResults as error:
            instead = nearest(expected, results, named)
            reasons.append((where, instead.why if instead else str(error).removeprefix(f"{expected.file}: ")))
            explained |= {instead.file} if instead else set()
            continue
        suites.append((expected, suite))
        reasons += [(where, why) for why in of_suite(expected, suite, origin)]
        reasons += [(where, why) for why in coverage.of_suite(expected, suite)]
        reasons += [(where, why) for why in attempts.reasons(expected, suite, results)]
    reasons += [(results.name(expected), why) for expected, why in _unevaluated(suites)]
    reasons += coverage.too_little(suites, manifest.coverage, share)
    reasons += run.reasons(suites, results)
    strangers = results.strangers(manifest.suites, {suite.run for _, suite in suites})
    reasons += [(name, "a result that the manifest does not name") for name in strangers if name not in explained]
    return Judgement(tuple(reasons), tuple(suites))


def _unevaluated(suites: Sequence[tuple[Expected, Suite]]) -> Iterator[tuple[Expected, str]]:
    """What was not evaluated, though nothing else of its session is red: then nothing else says why."""
    red = {expected.session for expected, suite in suites if is_red(suite)}
    for expected, suite in suites:
        why = unevaluated(suite)
        if why and expected.session not in red:
            yield expected, why


def _of_manifest(manifest: Manifest, origin: Origin) -> Iterator[str]:
    if not any(suite.checks for suite in manifest.suites):
        yield "names no check: nothing would be compared"
    files = Counter((suite.session, suite.file) for suite in manifest.suites)
    yield from (f"names {file} of session {session!r} twice" for (session, file), count in files.items() if count > 1)
    named = {(suite.session, suite.file) for suite in manifest.suites if suite.checks}
    for session, file in manifest.self_tests.items():
        if (session, file) not in named:
            yield f"says that {f'session {session}' if session else 'the run'} tests itself, and names no check of {file}"
    if not origin.commit:
        yield "does not say which commit it is of; give --commit, or make it where git or the CI service says it"
    elif manifest.commit != origin.commit:
        yield f"made on commit {manifest.commit or 'unknown'}, and {origin.commit} is required"
    if manifest.dirty != "false" and not origin.dirty_allowed:
        yield DIRTY


def tried_again(judged: Judgement) -> list[tuple[str, str]]:
    """The testsuites that took more than one attempt, with what each ended with; the workflow's, if somebody ran it again."""
    told = []
    for expected, suite in judged.suites:
        attempts, workflow = (suite.properties.get(name, "") for name in ("attempts", "workflow_attempt"))
        said = [f"ended with exit codes {attempts}"] if attempts else []
        said += [f"made in attempt {workflow} of the workflow's run"] if workflow else []
        told += [(expected.file, "; ".join(said))] if said else []
    return told
