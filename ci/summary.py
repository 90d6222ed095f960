"""`python -m ci summary`: what came of it, in Markdown: for GitHub's step summary, elsewhere to standard output.

On GitHub at most ten annotations go with it.

GitHub drops a summary above 1 MiB as a whole, and annotations after the tenth of a step without a word: what is left out here
is said. Every text out of results is escaped (ci/escape.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ci import coverage, gate, heat, reproduction, service
from ci.drift import Drift, add_base, ratio, told
from ci.escape import annotation, block, entities, markdown, plain
from ci.gate import Judgement
from ci.junit import Check
from ci.links import links
from ci.numbers import number
from ci.outcomes import known_bugs
from ci.reasons import KNOWN
from validation.case import exhausted
from validation.case.covered import Word, counts, not_compared, share
from validation.case.errors import ExitCode, UsageError
from validation.case.plural import many

LARGEST = 1 << 20
"""Bytes that GitHub takes of one step."""
ANNOTATIONS = 10
_MOST = 50
_WORST = 5
_MADE_WITH = ("torch", "transformers", "megatron-core", "transformer-engine", "gpu", "driver")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command: those of the gate, and what to compare with."""
    gate.add_judging_options(parser)
    parser.add_argument("--annotations", action="store_true", help="print them (default on GitHub)")
    add_base(parser)


def main(options: argparse.Namespace) -> int:
    """0, whatever the verdict is: telling is not judging."""
    judged = gate.judge(options)
    moved = told(options)
    file = service.summary(os.environ)
    if file:
        _append(Path(file), judged, moved)
    else:
        sys.stdout.write(page(judged, moved))
    if options.annotations or service.annotates(os.environ):
        sys.stdout.writelines(f"{line}\n" for line in annotated(judged, moved))
    return int(ExitCode.PASS)


def _append(path: Path, judged: Judgement, moved: Drift | None) -> None:
    """To what other steps have said there."""
    try:
        with exhausted.in_a_sentence(f"GITHUB_STEP_SUMMARY {path}"), path.open("a", encoding="utf-8") as summary:
            summary.write(page(judged, moved, LARGEST - summary.tell()))
    except OSError as error:
        raise UsageError(
            f"GITHUB_STEP_SUMMARY {path}: cannot be written ({error.strerror}); name a file, or unset it"
        ) from error


def page(judged: Judgement, moved: Drift | None = None, room: int = LARGEST) -> str:
    """The whole text, at most so many bytes: sections that find no room are named."""
    text, left_out = "", []
    for name, section in _SECTIONS.items():
        words = section(judged, moved)
        if words and len((text + words).encode()) > room - 1000:
            left_out.append(name)
        elif words:
            text += f"{words}\n"
    if left_out:
        text += f"Left out, for GitHub takes no more than {LARGEST >> 10} KiB of a step: {', '.join(left_out)}.\n"
    return text if len(text.encode()) <= room else ""


def annotated(judged: Judgement, moved: Drift | None = None) -> list[str]:
    """A workflow command for each reason; where there are more than GitHub shows, the last says how many."""
    found = judged.diagnosis
    told = [("diagnosis", f"{found.sentence}.")] if found else []
    reasons = [*told, *judged.reasons, *(("drift", why) for why in (moved.reasons if moved else []))]
    shown = reasons if len(reasons) <= ANNOTATIONS else reasons[: ANNOTATIONS - 1]
    lines = [annotation("error", f"Plumbline: {where}", why) for where, why in shown]
    more = len(reasons) - len(shown)
    return (
        [*lines, annotation("error", "Plumbline", f"{many(more, 'more reason')}; the step summary has them")] if more else lines
    )


def _verdict(judged: Judgement, moved: Drift | None) -> str:
    red = not judged.green or bool(moved and moved.reasons)
    return f"## Plumbline: {'🔴 RED' if red else '🟢 GREEN'}\n\n{judged.counted}\n{_where_next(red)}"


def _where_next(red: bool) -> str:
    """Links to the page with all of it and, where it is red, to what to do; on a CI service they have an address."""
    to = links(os.environ)
    shown = [f"[the report: maps, every check, history]({to.report})"] if to.report else []
    shown += [f"[what to do with a first red check]({to.first_red_check})"] if red and to.first_red_check else []
    return f"\n{' · '.join(shown)}\n" if shown else ""


def _diagnosis(judged: Judgement, moved: Drift | None) -> str:
    found = judged.diagnosis
    return "".join(f"{entities(plain(line, 1000))}\n" for line in found.lines) if found else ""


def _reasons(judged: Judgement, moved: Drift | None) -> str:
    lines = [f"- {markdown(where, 120)}: {entities(plain(why, 600))}" for where, why in judged.reasons]
    return _list("Why it is red", lines)


def _words(judged: Judgement, moved: Drift | None) -> str:
    """What the words in these reasons mean, where the documentation has an address."""
    said = "\n".join(why for _, why in judged.reasons)
    shown = ", ".join(f"[{name}]({address})" for name, address in links(os.environ).explained(said))
    return f"What the words mean: {shown}\n" if shown else ""


def _heat(judged: Judgement, moved: Drift | None) -> str:
    return f"### How near to the limits\n\n{heat.table(judged.suites)}" if judged.suites else ""


def _worst(judged: Judgement, moved: Drift | None) -> str:
    """Of those that pass. What fails is far behind its cause, and stands with the reasons."""
    found = [
        (near, expected, check)
        for expected, suite in judged.suites
        for check in suite.checks
        if (near := ratio(check)) is not None
    ]
    worst = sorted(found, key=lambda one: one[0], reverse=True)[:_WORST]
    lines = [
        f"| {near:.2g} | {markdown(check.name)} | {markdown(heat.title(expected), 120)} | "
        f"{number(check, 'rel_error'):.1e} | {number(check, 'tolerance'):.1e} |"
        for near, expected, check in worst
    ]
    head = "| of its limit | check | testsuite | relative error | limit |\n|---|---|---|---|---|\n"
    return f"### Nearest to their limits\n\n{head}" + "\n".join(lines) + "\n" if lines else ""


def _known(judged: Judgement, moved: Drift | None) -> str:
    known = [check for _, suite in judged.suites for check in suite.checks if check.status == "known"]
    said = Counter(check.message.partition(KNOWN)[2] for check in known)
    lines = []
    for bug in known_bugs():
        count = sum(number for message, number in said.items() if message.startswith(bug["what"]))
        if count:
            lines.append(
                f"- {many(count, 'check')}: [{bug['id']}]({bug['link']}): {entities(bug['what'])} (`{bug['finding']}`)"
            )
    return _list("Known upstream bugs", lines)


def _reproductions(judged: Judgement, moved: Drift | None) -> str:
    """Of each case's first failure. What comes before the command stands once: further commands go into the same shell."""
    of, before, lines = reproduction.sources(), "", []
    for expected, suite in judged.suites:
        first = next(filter(_fails, suite.checks), None)
        if first is None or not (how := reproduction.command(first)):
            continue
        setup, shown = reproduction.setup(suite, how, of), reproduction.elsewhere(how)
        again = setup == before
        code = block(shown if again else f"{setup}\n{shown}")
        lines.append(f"{markdown(heat.title(expected), 120)}{', in the same shell' if again else ''}\n\n{code}")
        before = setup
    return _list("Reproduce", lines)


def _fails(check: Check) -> bool:
    return check.status in ("fail", "error")


def _moved(judged: Judgement, moved: Drift | None) -> str:
    if moved is None:
        return ""
    lines = [f"- {'🟡' if moved.accepted else '🔴'} {entities(plain(line, 600))}" for line in moved.found]
    lines += [f"- accepted: {entities(plain(moved.accepted))}"] if moved.accepted else []
    lines += [f"- {entities(plain(line, 600))}" for line in moved.remarks]
    lines += [f"- new: {markdown(name)}" for name in moved.appeared]
    return _list(f"Drift from the base branch ({many(moved.compared, 'check')} compared)", lines or ["Nothing has changed."])


def _recipes(judged: Judgement, moved: Drift | None) -> str:
    """What became of the settings of each recipe."""
    found = coverage.by_recipe(suite for _, suite in judged.suites)
    lines = [
        f"- {markdown(recipe)}: {share(words):.0%} of {many(len(words), 'setting is', 'settings are')} equal: "
        f"{counts(word.word for word in words.values())}{_without(words)}"
        for (_, recipe), words in found.items()
    ]
    return _list("Recipes", lines)


def _without(words: Mapping[str, Word]) -> str:
    said = not_compared(words)
    return f"; not the recipe itself: {entities(plain(said, 600))}" if said else ""


def _attempts(judged: Judgement, moved: Drift | None) -> str:
    lines = [f"- {markdown(file)}: {entities(plain(said))}" for file, said in gate.tried_again(judged)]
    return _list("Tried again", lines)


def _made_with(judged: Judgement, moved: Drift | None) -> str:
    made = [suite.properties for _, suite in judged.suites]
    found = Counter(", ".join(f"{name} {said[name]}" for name in _MADE_WITH if name in said) for said in made)
    commits = dict.fromkeys(said.get("commit", "unknown") for said in made)
    lines = [f"- commit {markdown(commit)}" for commit in commits]
    return _list("Made with", lines + [f"- {many(count, 'testsuite')}: {markdown(said)}" for said, count in found.items()])


def _list(title: str, lines: Sequence[str]) -> str:
    """A section of so many lines, nothing where there is none."""
    if not lines:
        return ""
    more = f"\nand {len(lines) - _MOST} more\n" if len(lines) > _MOST else ""
    return f"### {title}\n\n" + "\n".join(lines[:_MOST]) + f"\n{more}"


_SECTIONS: dict[str, Callable[[Judgement, Drift | None], str]] = {
    "verdict": _verdict,
    "diagnosis": _diagnosis,
    "reasons": _reasons,
    "words": _words,
    "heat map": _heat,
    "nearest to their limits": _worst,
    "recipes": _recipes,
    "drift": _moved,
    "reproductions": _reproductions,
    "known upstream bugs": _known,
    "attempts": _attempts,
    "what it was made with": _made_with,
}
