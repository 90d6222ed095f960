"""The step summary at its edges: each section to its last word, and where each text and list is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from ci import gate, reproduction, summary
from ci.cli import main
from ci.drift import Drift, Moved
from ci.expected import Expected
from ci.gate import Judgement
from ci.junit import Check, Suite
from ci.outcomes import known_bugs
from tests.ci.green import EXPECTED, FILE, NUMBERS, SUITE, command_line
from validation.case.plural import many

TITLE = "<code>tiny / tp2 / fp64 / local / gloo</code>"
MLA = "validation.checks.test_mla"
COMMAND = "python -m validation run --layouts tp2"


def pair(*checks: Check, arrangement: str = "tp2", **properties: str) -> tuple[Expected, Suite]:
    """A testsuite with these checks, as the manifest and its file have it."""
    expected = replace(EXPECTED, properties={**EXPECTED.properties, "arrangement": arrangement})
    return expected, Suite(SUITE.name, checks, properties)


def of(*checks: Check) -> Judgement:
    return Judgement((), (pair(*checks),))


def with_reasons(*reasons: tuple[str, str]) -> Judgement:
    return Judgement(reasons, ())


def test_a_reason_is_cut_and_its_place_sooner() -> None:
    """120 characters of where, 600 of why."""
    found = summary._reasons(with_reasons(("w" * 121, "y" * 601), ("a.xml", "b")), None)
    assert found == (
        f"### Why it is red\n\n- <code>{'w' * 119}&#8230;</code>: {'y' * 599}&#8230;\n- <code>a&#46;xml</code>: b\n"
    )
    assert summary._reasons(with_reasons(("w" * 120, "y" * 600)), None).count("&#8230;") == 0


def test_each_line_of_the_diagnosis_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made of the testsuites, and it is the first annotation."""
    asked: list[list[Suite]] = []

    def diagnosed(suites: list[Suite]) -> SimpleNamespace | None:
        asked.append(suites)
        return SimpleNamespace(lines=["l" * 1001, "*"], sentence="a sentence") if suites else None

    monkeypatch.setattr(gate, "diagnose", diagnosed)
    judged = Judgement((("a", "b"),), (pair(),))
    assert summary._diagnosis(judged, None) == f"{'l' * 999}&#8230;\n&#42;\n"
    assert summary.annotated(judged)[0] == "::error title=Plumbline%3A diagnosis::a sentence."
    assert asked == [[judged.suites[0][1]]] * 2
    assert summary._diagnosis(Judgement((), ()), None) == ""


def test_the_verdict_is_red_for_a_reason_or_for_drift() -> None:
    """Not for a drift that has found nothing."""
    grown = Drift(vanished=["a"])
    for judged, moved, said in (
        (Judgement((), ()), None, "🟢 GREEN"),
        (Judgement((), ()), Drift(), "🟢 GREEN"),
        (Judgement((), ()), replace(grown, accepted="why"), "🟢 GREEN"),
        (Judgement((), ()), grown, "🔴 RED"),
        (with_reasons(("a", "b")), None, "🔴 RED"),
        (with_reasons(("a", "b")), Drift(), "🔴 RED"),
    ):
        assert summary._verdict(judged, moved) == f"## Plumbline: {said}\n\n{judged.counted}\n"


def test_the_nearest_to_their_limits_are_a_table() -> None:
    """Without what failed, and nothing where no check has a ratio."""
    checks = [
        Check(MLA, f"n{n}", "fail" if n == 7 else "pass", properties={"rel_error": f"{n}.04e-11", "tolerance": "1e-10"})
        for n in range(1, 8)
    ]
    found = summary._worst(of(*checks, Check(MLA, "a", "pass"), Check(MLA, "b", "known", properties=NUMBERS)), None)
    rows = [f"| 0.{n} | <code>n{n}</code> | {TITLE} | {n}.0e-11 | 1.0e-10 |" for n in (6, 5, 4, 3, 2)]
    head = "| of its limit | check | testsuite | relative error | limit |\n|---|---|---|---|---|\n"
    assert found == f"### Nearest to their limits\n\n{head}" + "\n".join(rows) + "\n"
    assert summary._worst(of(Check(MLA, "a", "pass")), None) == ""
    long = summary._worst(Judgement((), (pair(*checks[:1], arrangement="a" * 200),)), None)
    assert f"<code>tiny / {'a' * 112}&#8230;</code>" in long


def test_the_heat_map_has_a_title_and_nothing_has_none() -> None:
    found = summary._heat(of(Check(MLA, "a", "pass")), None)
    assert found.startswith("### How near to the limits\n\n| testsuite | <code>mla</code> |\n")
    assert summary._heat(Judgement((), ()), None) == ""


def test_known_bugs_are_counted_each_with_its_link() -> None:
    """In the order of our own table; one of which nobody has heard is none."""
    first, second = known_bugs()[:2]
    known = [
        Check(MLA, f"{number}", "known", message=f"KNOWN: a; known upstream bug: {what}")
        for number, what in enumerate(
            [f"{second['what']} (x)", f"{first['what']} (known upstream bug: x)", f"{first['what']} (y)", "other"]
        )
    ]
    passed = replace(known[0], status="pass")
    said = summary._known(of(*known, passed), None)
    head, *lines = said.splitlines()
    assert head == "### Known upstream bugs"
    assert [line.partition("): ")[0] for line in lines if line] == [
        f"- {many(count, 'check')}: [{bug['id']}]({bug['link']}" for count, bug in ((2, first), (1, second))
    ]
    assert said.endswith(f" (`{second['finding']}`)\n")
    assert summary._known(of(known[3]), None) == ""


def test_each_case_s_first_failure_is_shown_with_its_command() -> None:
    """What comes before the command stands once if it is the same. A name is cut; what passes has nothing to be seen again."""
    first, later = (Check(MLA, name, "fail", properties={"reproduce": f"{COMMAND} -k {name}"}) for name in ("a", "b"))
    passed, silent = replace(first, status="pass"), replace(first, properties={})
    judged = Judgement(
        (),
        (
            pair(passed, replace(later, status="error"), first, arrangement="a" * 200),
            pair(first, later),
            pair(passed),
            pair(silent, later),
            pair(replace(first, status="known"), later, commit="c" * 40),
        ),
    )
    setups = [reproduction.setup(suite, COMMAND, reproduction.sources({})) for _, suite in judged.suites]
    assert setups[0] == setups[1] != setups[-1]
    assert summary._reproductions(judged, None) == (
        f"### Reproduce\n\n<code>tiny / {'a' * 112}&#8230;</code>\n\n```sh\n{setups[0]}\n{COMMAND} -k b\n```\n\n"
        f"{TITLE}, in the same shell\n\n```sh\n{COMMAND} -k a\n```\n\n"
        f"{TITLE}\n\n```sh\n{setups[-1]}\n{COMMAND} -k b\n```\n\n"
    )
    assert summary._reproductions(Judgement((), (pair(passed),)), None) == ""


@pytest.mark.parametrize("red", [True, False])
def test_on_a_runner_the_verdict_links_to_what_comes_next(monkeypatch: pytest.MonkeyPatch, red: bool) -> None:
    """Elsewhere nothing has an address; what is green has nothing to be done."""
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "PLUMBLINE_REPOSITORY", "PLUMBLINE_REF"):
        monkeypatch.delenv(name, raising=False)
    assert summary._where_next(red) == ""
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("PLUMBLINE_REPOSITORY", "p/q")
    monkeypatch.setenv("PLUMBLINE_REF", "v1")
    todo = "[what to do with a first red check](https://github.com/p/q/blob/v1/docs/first-red-check.md)"
    assert summary._where_next(red) == (f"\n{todo}\n" if red else "")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    report = "[the report: maps, every check, history](https://github.com/a/b/actions/runs/7#artifacts)"
    assert summary._where_next(red) == f"\n{report}{f' · {todo}' if red else ''}\n"
    judged = with_reasons(("a", "b")) if red else Judgement((), ())
    assert summary._verdict(judged, None).endswith(f"\n{summary._where_next(red)}")


def test_the_words_of_the_reasons_are_explained_where_there_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = with_reasons(("max diff 1 > 0", "scaled by 0.5"), ("a", "worst at [1] on rank 0"))
    for name in ("GITHUB_SERVER_URL", "PLUMBLINE_REPOSITORY", "PLUMBLINE_REF"):
        monkeypatch.delenv(name, raising=False)
    assert summary._words(judged, None) == ""
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("PLUMBLINE_REPOSITORY", "p/q")
    monkeypatch.setenv("PLUMBLINE_REF", "v1")
    page = "https://github.com/p/q/blob/v1/docs/words-in-failures.md"
    said = f"What the words mean: [scaled by]({page}#scaled-by), [worst at]({page}#worst-at)\n"
    assert summary._words(judged, None) == said, "of what is wrong, not of where"
    assert summary._words(with_reasons(("a", "b")), None) == ""
    assert said in summary.page(judged)
    asked = Mock(return_value=())
    monkeypatch.setattr("ci.links.words_in", asked)
    summary._words(judged, None)
    asked.assert_called_once_with("scaled by 0.5\nworst at [1] on rank 0")


def test_drift_is_told_in_its_order_and_each_line_is_cut() -> None:
    """What is red, why it is accepted, what is remarked, what is new."""
    moved = Drift(
        grown=[Moved("a.xml", "b", 0.1, 0.5)],
        vanished=["v" * 601],
        remarks=["r" * 601, "*"],
        appeared=["n" * 301, "`"],
        compared=7,
    )
    red = [f"{'v' * 599}…", "a&#46;xml&#58; b&#58; 0&#46;5 of its limit, and 0&#46;1 on the base branch"]
    rest = [f"- {'r' * 599}…", "- &#42;", f"- new: <code>{'n' * 299}…</code>", "- new: <code>&#96;</code>"]
    head = "### Drift from the base branch (7 checks compared)"
    found = summary._moved(Judgement((), ()), moved).replace("&#8230;", "…").splitlines()
    assert found == [head, "", f"- 🔴 {red[0]}", f"- 🔴 {red[1]}&#58; it has grown more than is allowed", *rest]
    accepted = summary._moved(Judgement((), ()), replace(moved, accepted="*why*")).replace("&#8230;", "…").splitlines()
    assert accepted[2].startswith("- 🟡 v")
    assert accepted[4:] == ["- accepted: &#42;why&#42;", *rest]
    assert summary._moved(Judgement((), ()), Drift(compared=3)) == (
        "### Drift from the base branch (3 checks compared)\n\nNothing has changed.\n"
    )
    assert summary._moved(Judgement((), ()), None) == ""


def test_what_results_were_made_with_is_counted() -> None:
    """Each commit once, and each set of versions in its own order; what is not said is left out."""
    versions = {"megatron-core": "0.16.1", "torch": "2.13", "driver": "5", "gpu": "a", "other": "b"}
    judged = Judgement((), (pair(commit="c1", **versions), pair(commit="c1", **versions), pair(torch="3")))
    assert summary._made_with(judged, None) == (
        "### Made with\n\n- commit <code>c1</code>\n- commit <code>unknown</code>\n"
        "- 2 testsuites: <code>torch 2&#46;13, megatron-core 0&#46;16&#46;1, gpu a, driver 5</code>\n"
        "- 1 testsuite: <code>torch 3</code>\n"
    )


def test_attempts_are_told_with_their_file() -> None:
    judged = Judgement((), (pair(attempts="4, 0"),))
    assert summary._attempts(judged, None) == (
        f"### Tried again\n\n- <code>{FILE.replace('.', '&#46;')}</code>: ended with exit codes 4, 0\n"
    )
    assert summary._attempts(Judgement((), (pair(),)), None) == ""


@pytest.mark.parametrize(("count", "more"), [(50, ""), (51, "\nand 1 more\n"), (70, "\nand 20 more\n")])
def test_a_section_has_fifty_lines_and_counts_the_rest(count: int, more: str) -> None:
    lines = [f"- {number}" for number in range(count)]
    assert summary._list("A title", lines) == "### A title\n\n" + "\n".join(lines[:50]) + f"\n{more}"
    assert summary._list("A title", []) == ""


def test_sections_stand_in_their_order_and_are_left_out_where_they_find_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand bytes stay for what is said of that. A later section may find room; one without words needs none."""
    sections = {"a": "ä" * 500, "b": "", "c": "ö" * 1000, "d": "u" * 999}
    monkeypatch.setattr(summary, "_SECTIONS", {name: lambda judged, moved, text=text: text for name, text in sections.items()})
    whole = f"{sections['a']}\n{sections['c']}\n{sections['d']}\n"
    judged = Judgement((), ())
    assert summary.page(judged) == whole
    # Before the last section there are 3002 bytes, and it has 999.
    assert summary.page(judged, None, 5001) == whole
    left_out = "Left out, for GitHub takes no more than 1024 KiB of a step: {}.\n"
    assert summary.page(judged, None, 5000) == f"{sections['a']}\n{sections['c']}\n" + left_out.format("d")
    assert summary.page(judged, None, 4001) == f"{sections['a']}\n{sections['c']}\n" + left_out.format("d")
    assert summary.page(judged, None, 4000) == f"{sections['a']}\n{sections['d']}\n" + left_out.format("c")
    assert summary.page(judged, None, 1500) == left_out.format("a, c, d")
    said = len(left_out.format("a, c, d").encode())
    assert summary.page(judged, None, said) == left_out.format("a, c, d")
    assert summary.page(judged, None, said - 1) == ""


def test_a_section_is_given_the_verdict_and_the_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Judgement, Drift | None]] = []

    def section(judged: Judgement, moved: Drift | None) -> str:
        given.append((judged, moved))
        return "a"

    monkeypatch.setattr(summary, "_SECTIONS", {"a": section})
    judged, moved = Judgement((), ()), Drift(compared=3)
    assert summary.page(judged, moved) == "a\n"
    assert given == [(judged, moved)]


def test_annotations_are_the_reasons_and_the_drift() -> None:
    """Each with its place; drift that is accepted is none."""
    judged, moved = with_reasons(("a", "b"), ("c", "d")), Drift(vanished=["e"])
    lines = ["::error title=Plumbline%3A a::b", "::error title=Plumbline%3A c::d"]
    of_drift = "::error title=Plumbline%3A drift::e: gone, and it is there on the base branch"
    assert summary.annotated(judged, moved) == [*lines, of_drift]
    assert summary.annotated(judged, replace(moved, accepted="why")) == lines
    assert summary.annotated(judged) == lines


@pytest.mark.parametrize(("variable", "told"), [("true", True), ("false", False), ("True", False), (None, False)])
def test_annotations_are_printed_on_a_runner_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str | None,
    told: bool,
) -> None:
    """Or if somebody asks for them."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    if variable is not None:
        monkeypatch.setenv("GITHUB_ACTIONS", variable)
    words = ["summary", *command_line(tmp_path), "--needs", '{"a": {"result": "failure"}}']
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.endswith("::error title=Plumbline%3A job a::failed\n") is told
    assert ("::error" in said) is told
    assert main([*words, "--annotations"]) == 0
    assert capsys.readouterr().out.endswith("\n::error title=Plumbline%3A job a::failed\n")
