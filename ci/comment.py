"""`python -m ci comment`: one comment in a pull request that says what came of its run, and is kept current.

It runs beside the pipeline, in a workflow that `workflow_run` starts (.github/workflows/comment.yml), with a token that may
write comments. No code of the pull request runs there. What its run has left is taken for hostile: every text out of it is
shown as text. The verdict is what GitHub says of the gate's job, never what results say of themselves.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ci import junit, reproduction
from ci.escape import block, markdown, plain, prose
from ci.github import ask_all, send
from ci.links import Links, links
from ci.page.cause import first_failure
from ci.page.read import suites
from ci.page.run import Run, judged, labels
from ci.page.text import WORDS, said
from ci.pull_request import Finished, finished, number
from validation.case.errors import EnvironmentMissing, ExitCode, UsageError
from validation.case.plural import many

LONGEST = 65_536
"""Characters that GitHub takes of a comment."""
MOST_FAILURES = 10
_BOT = "github-actions[bot]"
_NAME = re.compile("[A-Za-z0-9_-]{0,100}")
_REPRODUCE = "Reproduce it in a checkout of Plumbline. The report has the lines that make one:"
_VERDICTS = {"success": "🟢 GREEN", "failure": "🔴 RED"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--results", required=True, metavar="DIR", help="what the run has left: folders of JUnit files")
    parser.add_argument(
        "--gate", default="plumbline / gate", metavar="JOB", help="the job whose verdict it is (default %(default)s)"
    )
    parser.add_argument(
        "--name", default="", metavar="NAME", help="of the call, where one workflow has several: a comment each"
    )
    parser.add_argument("--author", default=_BOT, metavar="LOGIN", help="who the token writes as (default %(default)s)")
    parser.add_argument("--print", action="store_true", dest="printed", help="print the text, and write nothing")


def main(options: argparse.Namespace) -> int:
    """0 where the comment is written, or there is no pull request to write it to, which a sentence says."""
    if not _NAME.fullmatch(options.name):
        raise UsageError(f"--name {options.name}: use letters, digits, - and _, as the call of parity.yml does")
    run = finished(os.environ)
    pull, why_none = number(run, os.environ)
    if not pull:
        sys.stdout.write(f"No comment is written: {plain(why_none, 500)}\n")
        return int(ExitCode.PASS)
    text = body(judged(*suites(Path(options.results))), _verdict(run, options.gate), run, _links(run), options.name)
    if options.printed:
        sys.stdout.write(text)
    else:
        sys.stdout.write(f"Pull request {pull}: {_write(pull, text, options.name, options.author)}\n")
    return int(ExitCode.PASS)


def _links(run: Finished) -> Links:
    """Of the run that has ended, not of the one that this is."""
    return links({**os.environ, "GITHUB_RUN_ID": str(run.run)})


def _verdict(run: Finished, gate: str) -> str:
    """How the gate ended; where there is no job of that name, how the whole run did."""
    where = ("actions", "runs", str(run.run), "attempts", str(run.attempt), "jobs")
    ended = [str(job.get("conclusion")) for job in ask_all(*where, key="jobs") if job.get("name") == gate]
    return ended[-1] if ended else run.conclusion


def body(run: Run, verdict: str, of: Finished, to: Links, name: str = "") -> str:
    """The text, of at most LONGEST characters: what finds no room is left out, the end first."""
    parts = [_marker(name), f"## Plumbline{f' {name}' if name else ''}: {_VERDICTS.get(verdict, f'⚪ {verdict}'.upper())}\n"]
    end = f"{_ending(of, to, red=verdict != 'success')}\n"
    room = LONGEST - sum(map(len, parts)) - len(end) - 200
    for part in _parts(run, verdict, to):
        if len(part) > room:
            parts.append("More is left out here. The report has it.\n")
            break
        parts.append(part)
        room -= len(part) + 1
    return "\n".join([*parts, end])


def _marker(name: str) -> str:
    """What the comment is found again by; a reader does not see it."""
    return f"<!-- plumbline comment{f' {name}' if name else ''} -->"


def _parts(run: Run, verdict: str, to: Links) -> Iterator[str]:
    if not run.suites and not run.reasons:
        yield "The run has left no results. Its log says why.\n"
        return
    yield _counted(run)
    if run.diagnosis is not None:
        yield "".join(f"> {prose(line, 1000)}\n" for line in run.diagnosis.lines)
    yield from _first_failures(run, to)
    if run.reasons:
        yield "**What else is wrong**\n\n" + "".join(f"- {markdown(reason, 500)}\n" for reason in run.reasons[:MOST_FAILURES])
    if verdict == "success" and run.verdict != "pass":
        yield "The gate is green, and these results are not. The gate judges what its manifest names; look at the report.\n"


def _counted(run: Run) -> str:
    counts = run.counts
    told = ", ".join(f"{counts[status]:,} {word}" for status, word in WORDS.items() if counts[status])
    return f"{many(len(run.cases), 'case')}, {many(sum(counts.values()), 'check', spec=',')}: {told or 'nothing'}\n"


def _first_failures(run: Run, to: Links) -> Iterator[str]:
    """The first failure of each layout; layouts that fail at the same check first are one."""
    groups: dict[tuple[str, str], list[tuple[str, junit.Check]]] = {}
    for suite, label in zip(run.suites, labels(run.suites), strict=True):
        if (check := first_failure(suite)) is not None:
            groups.setdefault((check.status, check.name), []).append((label, check))
    if groups:
        yield "### First failure of each layout\n"
    for (_, title), found in itertools.islice(groups.items(), MOST_FAILURES):
        names = ", ".join(markdown(label, 80) for label, _ in found[:5]) + (
            f" and {len(found) - 5} more" if len(found) > 5 else ""
        )
        words = plain(said(found[0][1]), 800)
        yield f"{markdown(title)} in {names}\n\n{block(words, 'text')}"
        if how := reproduction.command(found[0][1]):
            yield f"{_REPRODUCE}\n\n{block(reproduction.elsewhere(how))}"
        if meaning := ", ".join(f"[{name}]({address})" for name, address in to.explained(words)):
            yield f"What it means: {meaning}\n"
    if len(groups) > MOST_FAILURES:
        yield f"and {len(groups) - MOST_FAILURES} more, which the report has\n"


def _ending(of: Finished, to: Links, red: bool) -> str:
    shown = [f"[the report, as an artifact]({to.report})"] if to.report else []
    shown += [f"[what to do with a first red check]({to.first_red_check})"] if red and to.first_red_check else []
    attempt = f", attempt {of.attempt}" if of.attempt > 1 else ""
    return " · ".join([*shown, f"commit {of.commit}{attempt}"])


def _write(pull: int, text: str, name: str, author: str) -> str:
    """Write the comment anew or change the one that is there; what was done."""
    there = next(_ours(ask_all("issues", str(pull), "comments"), name, author), None)
    if there is not None:
        if there[1].strip() == text.strip():
            return "the comment is current"
        if send("PATCH", "issues", "comments", str(there[0]), content={"body": text}) is not None:
            return "the comment is changed"
    if send("POST", "issues", str(pull), "comments", content={"body": text}) is None:
        raise EnvironmentMissing(
            f"GitHub knows no pull request {pull}, or the token may not write to it; give pull-requests: write"
        )
    return "the comment is written"


def _ours(comments: Iterable[object], name: str, author: str) -> Iterator[tuple[int, str]]:
    """Number and text of each comment that this command has written: by the bot, and beginning with the marker."""
    for comment in comments:
        if not isinstance(comment, dict):
            continue
        user, text = comment.get("user") or {}, str(comment.get("body") or "")
        if user.get("login") == author and user.get("type") == "Bot" and text.startswith(f"{_marker(name)}\n"):
            yield int(comment["id"]), text
