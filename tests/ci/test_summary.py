"""The step summary: what a reviewer needs, within GitHub's limits, and whatever is cut is said to be."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from ci import heat, junit, summary
from ci.cli import main
from ci.expected import Expected
from ci.folder import Results
from ci.gate import Judgement, judged
from ci.heat import BLOCKS, block, title
from ci.junit import Check, Suite
from ci.outcomes import known_bugs
from tests.ci.green import CHECKS, EXPECTED, FILE, MANIFEST, NUMBERS, ORIGIN, SUITE, command_line, with_check
from tests.ci.test_links import ON_GITHUB
from validation.case.covered import Word, properties

COMMAND = "python -m validation run --preset tiny --layouts tp2 -- -k 'test_query[tiny-tp2-fp64-local-gloo-0]'"
FAILED = with_check(
    1,
    status="fail",
    message="FAIL: Layer 0 Query - relative error 2.5e-01 > 1e-10",
    properties={**NUMBERS, "rel_error": "0.25", "reproduce": COMMAND},
)(SUITE)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """On no runner, unless a test says so."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    for name in ("GITHUB_ACTIONS", *ON_GITHUB):
        monkeypatch.delenv(name, raising=False)


def page(folder: Path, suite: Suite = SUITE) -> str:
    """The summary of one testsuite."""
    junit.write(folder / FILE, suite)
    return summary.page(judged(MANIFEST, Results(folder), ORIGIN))


def section(text: str, title: str) -> str:
    """What stands under a heading."""
    (found,) = re.findall(rf"^###? {re.escape(title)}.*?\n\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def test_green_results_say_so_first_and_show_how_near_they_are(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.startswith("## Plumbline: 🟢 GREEN\n\n1 testsuite, 4 checks: 3 pass, 1 with a known upstream bug\n")
    assert "Why it is red" not in text
    assert "Reproduce" not in text
    assert "Left out" not in text


def test_red_results_say_why_and_how_to_see_it(tmp_path: Path) -> None:
    text = page(tmp_path, FAILED)
    assert text.startswith("## Plumbline: 🔴 RED\n")
    assert section(text, "Why it is red") == (
        "- <code>tiny-tp2-fp64-local-gloo&#46;xml</code>: 1 check fails&#58; Layer 0 Query &#40;mla&#41;; "
        "the first in the flow of data&#58; FAIL&#58; Layer 0 Query - relative error 2&#46;5e-01 &#62; 1e-10\n\n"
    )
    assert re.search(
        r'```sh\ncd "\$\(mktemp -d\)"\n.*\n' + re.escape(COMMAND) + r"\n```\n", section(text, "Reproduce"), re.DOTALL
    )


def test_the_diagnosis_comes_before_the_reasons(tmp_path: Path) -> None:
    """With the case that would decide."""
    text = page(tmp_path, FAILED)
    said = [line for line in text.splitlines() if line]
    assert said[2].startswith("tp2 fails&#58; the model itself")
    assert said[3] == "To decide, run single&#58; if it fails, the cause is the model itself, else tensor parallelism&#46;"
    assert said[4] == "### Why it is red"
    assert "tp2 fails" not in page(tmp_path)


def test_what_comes_before_the_commands_stands_once(tmp_path: Path) -> None:
    other = replace(EXPECTED, file="b.xml")
    text = summary.page(Judgement((), ((EXPECTED, FAILED), (other, FAILED))))
    said = section(text, "Reproduce")
    assert said.count("mktemp") == 1
    assert said.count(COMMAND) == 2
    assert said.count("</code>, in the same shell") == 1
    gpus = replace(FAILED, properties={**FAILED.properties, "transport": "nccl"})
    assert section(summary.page(Judgement((), ((EXPECTED, FAILED), (other, gpus)))), "Reproduce").count("mktemp") == 2


def test_where_to_go_on_is_said_on_github_and_what_to_do_only_if_it_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "](" not in page(tmp_path, FAILED).partition("### ")[0]
    for name, value in ON_GITHUB.items():
        monkeypatch.setenv(name, value)
    red, green = page(tmp_path, FAILED).partition("### ")[0], page(tmp_path).partition("### ")[0]
    for text in (red, green):
        assert "](https://github.example/team/megatron/actions/runs/77#artifacts)" in text
    assert "docs/first-red-check.md)" in red
    assert "first-red-check" not in green


def test_the_heat_map_has_a_row_a_testsuite_and_a_column_a_component(tmp_path: Path) -> None:
    known = with_check(3, properties={**NUMBERS, "rel_error": "0.1"})(FAILED)
    rows = section(page(tmp_path, known), "How near to the limits").splitlines()
    assert [cell.strip() for cell in re.sub("</?code>", "", rows[0]).split("|")] == [
        "", "testsuite", "run", "mla", "gradients", "",
    ]  # fmt: skip
    cells = [cell.strip() for cell in rows[2].split("|")]
    assert cells[2:5] == ["=", "✗ 1 █ 2e+09", "◆ 1"]
    assert "left out" not in "".join(rows)


def test_a_component_that_a_testsuite_has_not_is_left_empty() -> None:
    """The self-test has one of its own, and layouts without experts have no router."""
    steps = replace(SUITE, checks=(Check("probe_gradients", "a", "pass"),))
    rows = heat.table([(EXPECTED, replace(SUITE, checks=CHECKS[:1])), (EXPECTED, steps)]).splitlines()
    assert rows[0].endswith("| <code>run</code> | <code>probe gradients</code> |")
    assert [row.split("|")[2:4] for row in rows[2:4]] == [[" = ", "  "], ["  ", " = "]]


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(0.0, "▁"), (1e-5, "▁"), (2e-5, "▂"), (0.05, "▅"), (0.3, "▆"), (1.0, "▇"), (1.01, "█"), (inf, "█"), (nan, "█")],
)
def test_a_block_grows_with_the_ratio(ratio: float, shown: str) -> None:
    assert block(ratio) == shown
    assert shown in BLOCKS


def test_the_five_nearest_to_their_limits_are_listed_nearest_first(tmp_path: Path) -> None:
    near = [replace(CHECKS[1], name=f"Layer {n} Query", properties={**NUMBERS, "rel_error": f"{n}e-11"}) for n in range(1, 8)]
    lines = section(page(tmp_path, replace(SUITE, checks=tuple(near))), "Nearest to their limits").splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines if line] == ["0.7", "0.6", "0.5", "0.4", "0.3"]
    assert "Layer 7 Query" in lines[0]
    assert "7.0e-11 | 1.0e-10" in lines[0]


@pytest.mark.parametrize("number", [1, 2])
def test_a_number_that_is_none_is_the_worst_of_its_cell_wherever_it_stands(tmp_path: Path, number: int) -> None:
    """Python's max([0.1, nan]) is 0.1, and its max([nan, 0.1]) is nan."""
    spoilt = with_check(number, status="fail", properties={**NUMBERS, "rel_error": "nan"})(SUITE)
    assert "| ✗ 1 █ nan |" in section(page(tmp_path, spoilt), "How near to the limits")


def test_known_upstream_bugs_are_linked_as_our_own_table_has_them(tmp_path: Path) -> None:
    bug = known_bugs()[0]
    failing = with_check(1, status="fail", message=CHECKS[3].message)(SUITE)
    for suite in (SUITE, failing):
        assert f"- 1 check: [{bug['id']}]({bug['link']}): " in section(page(tmp_path, suite), "Known upstream bugs")


@pytest.mark.parametrize(
    "said",
    [
        "curl example.com | sh",
        "rm -rf ~",
        "python -m validation run 'a\nb'",
        "python -m validation run; rm -rf ~",
        "python -m validation run $(id)",
        "python -m validation run `id`",
        "python -m validation run > /etc/passwd",
        "python -m validation run 'unclosed",
        "python -m validation run \x1b[2J",
        "python -m validation run " + "a" * 5000,
        "python -m validation run\nid",
    ],
)
def test_a_command_that_is_not_ours_is_not_shown_to_be_copied(tmp_path: Path, said: str) -> None:
    properties = {**NUMBERS, "reproduce": said}
    assert "Reproduce" not in page(tmp_path, with_check(1, message="FAIL: a", status="fail", properties=properties)(SUITE))


def many(count: int, reasons: int = 0, names: int = 100) -> Judgement:
    """So many testsuites, red for so many reasons."""
    checks = tuple(Check("mla", f"{'&' * names} {n}", "pass", properties=NUMBERS) for n in range(3))
    suites: list[tuple[Expected, Suite]] = []
    for number in range(count):
        expected = replace(EXPECTED, properties={**EXPECTED.properties, "arrangement": f"tp{number}"})
        suites.append((expected, replace(SUITE, checks=checks)))
    return Judgement(tuple((f"{n}.xml", "&" * 1000) for n in range(reasons)), tuple(suites))


def test_what_a_section_leaves_out_is_said() -> None:
    text = summary.page(many(150, reasons=80))
    assert "50 more testsuites are left out." in text
    assert "\nand 30 more\n" in text
    assert len(text.encode()) < summary.LARGEST


def test_a_section_that_finds_no_room_is_named_and_the_verdict_stands() -> None:
    text = summary.page(many(90, reasons=40), room=60_000)
    assert len(text.encode()) <= 60_000
    assert text.startswith("## Plumbline: 🔴 RED")
    assert re.search(r"Left out, for GitHub takes no more than 1024 KiB of a step: .*reasons", text)


def test_where_not_even_the_verdict_finds_room_nothing_is_written() -> None:
    """Too much, and GitHub would drop what stands there already."""
    assert summary.page(many(1), room=100) == ""


def test_what_a_step_has_written_before_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub drops the whole summary of a step that is above its limit."""
    file = tmp_path / "summary.md"
    file.write_text("a" * (summary.LARGEST - 2000))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    assert main(["summary", *command_line(tmp_path)]) == 0
    text = file.read_text()
    assert len(text.encode()) <= summary.LARGEST
    assert "## Plumbline: 🟢 GREEN" in text
    assert "Left out" in text


def test_a_summary_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    assert main(["summary", *command_line(tmp_path)]) == 2
    said = f"error: GITHUB_STEP_SUMMARY {tmp_path}: cannot be written (Is a directory); name a file, or unset it\n"
    assert capsys.readouterr() == ("", said)


def test_on_a_runner_the_summary_goes_to_its_file_and_annotations_to_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    options = command_line(tmp_path)
    junit.write(tmp_path / "results" / FILE, FAILED)
    assert main(["summary", *options]) == 0
    assert (tmp_path / "summary.md").read_text().startswith("## Plumbline: 🔴 RED")
    assert capsys.readouterr().out == (
        "::error title=Plumbline%3A diagnosis::tp2 fails: the model itself (MLA) or tensor parallelism in the forward pass, "
        "first at Layer 0 Query (relative error 2.5e-01).\n"
        f"::error title=Plumbline%3A {FILE}::1 check fails: Layer 0 Query (mla); "
        "the first in the flow of data: FAIL: Layer 0 Query - relative error 2.5e-01 > 1e-10\n"
    )


def test_elsewhere_the_summary_is_printed_and_no_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = command_line(tmp_path)
    junit.write(tmp_path / "results" / FILE, FAILED)
    assert main(["summary", *options]) == 0
    said = capsys.readouterr().out
    assert said.startswith("## Plumbline: 🔴 RED")
    assert "::error" not in said


@pytest.mark.parametrize(
    ("reasons", "lines", "last"),
    [(0, 0, ""), (10, 10, "9.xml"), (11, 10, "2 more reasons"), (500, 10, "491 more")],
)
def test_there_are_at_most_ten_annotations_and_the_last_counts_the_rest(reasons: int, lines: int, last: str) -> None:
    found = summary.annotated(many(1, reasons))
    assert len(found) == lines
    assert last in (found[-1] if found else "")


def test_the_annotation_that_counts_the_rest_is_an_error_of_plumbline() -> None:
    assert summary.annotated(many(1, 11))[-1] == "::error title=Plumbline::2 more reasons; the step summary has them"


def test_drift_is_told_in_the_step_summary_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind what other steps have said there."""
    (tmp_path / "summary.md").write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert main(["summary", *drifted(tmp_path)]) == 0
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("before\n## Plumbline: 🔴 RED")
    assert "0&#46;9 of its limit" in section(text.removeprefix("before\n"), "Drift from the base branch")


def drifted(folder: Path) -> list[str]:
    """Options for results that have come nearer to their limit."""
    options = command_line(folder)
    junit.write(folder / "base" / FILE, SUITE)
    junit.write(folder / "results" / FILE, with_check(1, properties={**NUMBERS, "rel_error": "9e-11"})(SUITE))
    return [*options, "--base", str(folder / "base")]


def test_drift_is_red_in_the_summary_and_in_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", *drifted(tmp_path), "--annotations"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("## Plumbline: 🔴 RED")
    said = section(text, "Drift from the base branch")
    assert f"- 🔴 {FILE.replace('.', '&#46;')}&#58; Layer 0 Query &#40;mla&#41;&#58; 0&#46;9 of its limit" in said
    assert "::error title=Plumbline%3A drift::" in text


def test_accepted_drift_is_told_with_the_reason_and_not_red(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", *drifted(tmp_path), "--annotations", "--accept", "another order of sums"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("## Plumbline: 🟢 GREEN")
    assert "\n- accepted: another order of sums\n" in section(text, "Drift from the base branch")
    assert "- 🟡 tiny-tp2" in section(text, "Drift from the base branch")
    assert "::error" not in text


def test_a_summary_of_nothing_is_written_though_there_is_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junit.write(tmp_path / "base" / FILE, SUITE)
    words = ["--manifest", str(tmp_path / "none.json"), "--results", str(tmp_path / "none"), "--base", str(tmp_path / "base")]
    assert main(["summary", *words]) == 0
    assert capsys.readouterr().out.startswith("## Plumbline: 🔴 RED")


def test_what_became_of_a_recipes_settings_is_told() -> None:
    """A name that somebody else chose is shown as it is."""
    words = {"model.a=1": Word("equal"), "model.b=2": Word("needs", "a GPU"), "model.c=3": Word("equal")}
    words["--lora-rank 8"] = Word("cannot be compared")
    suite = replace(SUITE, properties={**SUITE.properties, **properties("a|b<i>.txt", words)})
    said = summary.page(Judgement((), ((EXPECTED, suite),)))
    counted = "50% of 4 settings are equal: 2 equal, 1 need what is not here, 1 cannot be compared"
    counted += "; not the recipe itself: compared without --lora-rank 8"
    assert f"### Recipes\n\n- <code>a&#124;b&#60;i&#62;&#46;txt</code>: {counted}\n" in said
    assert "Recipes" not in summary.page(Judgement((), ((EXPECTED, SUITE),)))


def test_attempts_are_told(tmp_path: Path) -> None:
    told = replace(SUITE, properties={**SUITE.properties, "attempts": "4, 0"})
    junit.write(tmp_path / "attempts" / "1" / FILE, replace(SUITE, properties={**SUITE.properties, "broken": "4"}))
    assert section(page(tmp_path, told), "Tried again").endswith("</code>: ended with exit codes 4, 0\n\n")


def test_what_it_was_made_with_is_told(tmp_path: Path) -> None:
    said = section(page(tmp_path), "Made with")
    assert f"- commit <code>{ORIGIN.commit}</code>" in said
    assert "torch 2&#46;13&#46;0+cpu, megatron-core 0&#46;16&#46;1" in said


def test_a_summary_of_nothing_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan failed, so that there is neither manifest nor result."""
    words = ["--manifest", str(tmp_path / "none.json"), "--results", str(tmp_path / "none")]
    assert main(["summary", *words, "--needs", '{"plan": {"result": "failure"}}']) == 0
    text = capsys.readouterr().out
    assert section(text, "Why it is red").count("\n- ") == 1
    assert "How near to the limits" not in text
    assert "Nearest to their limits" not in text


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, "tiny / tp2 / fp64 / local / gloo"),
        ({"session": "cpu_tp2"}, "cpu_tp2: tiny / tp2 / fp64 / local / gloo"),
        ({"properties": {**EXPECTED.properties, "isolated": "True"}}, "tiny / tp2 / fp64 / local / gloo / isolated"),
        ({"properties": {**EXPECTED.properties, "isolated": "False"}}, "tiny / tp2 / fp64 / local / gloo"),
        ({"ranks": 0}, "tiny-tp2-fp64-local-gloo"),
    ],
)
def test_a_testsuite_is_called_by_its_session_and_case(change: dict[str, Any], shown: str) -> None:
    assert title(replace(EXPECTED, **change)) == shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full")
    assert main(["summary", *command_line(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith("error: GITHUB_STEP_SUMMARY /dev/full: no space, or no inode, is left")
