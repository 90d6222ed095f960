"""`--only` takes the names that are shown, `--last-failed` what the reports say: which checks that makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import junit
from validation import cli
from validation.case.errors import ExitCode, UsageError
from validation.checks.counted import counted
from validation.checks.facts import case_facts
from validation.checks.selection import EVERYTHING, Selection, failed_before
from validation.run.options import parsed

CASES = parsed(["--layouts", "tp2,pp2"]).cases
CHECKS = [(case.name, title) for case in CASES for _, title in counted(case)]


def chosen(*patterns: str) -> list[str]:
    """The titles that the patterns choose, of each layout the same."""
    found = Selection(patterns).chosen(CHECKS)
    first, second = ([title for suite, title in CHECKS if suite == case.name and (suite, title) in found] for case in CASES)
    assert first == second
    return first


def test_a_whole_title_names_that_check() -> None:
    """Though others contain it, and in whatever case it is written."""
    assert chosen("layer 0 attention output") == ["Layer 0 Attention Output"]
    assert chosen("Loss") == ["Loss"]


def test_a_part_of_a_title_names_all_that_have_it() -> None:
    found = chosen("attention output")
    assert {"Layer 0 Attention Output", "Layer 3 Core Attention Output", "Layer 2 Attention Output Gradient"} <= set(found)
    assert all("Attention Output" in title for title in found)


def test_a_pattern_is_of_the_whole_title() -> None:
    layers = range(CASES[0].model.num_hidden_layers)
    assert chosen("Layer ? Attention Output") == [f"Layer {layer} Attention Output" for layer in layers]
    assert chosen("layer [01] attention*output") == [f"Layer {layer} Attention Output" for layer in (0, 1)]


def test_a_pattern_of_no_whole_title_is_of_what_stands_behind_the_layer() -> None:
    assert chosen("router out*") == [f"Layer {layer} Router Output" for layer in (1, 2, 3)]
    assert "Final Norm Output" in chosen("*output")


def test_several_names_are_added_up() -> None:
    assert chosen("Logits", "Layer 1 Router Output") == ["Layer 1 Router Output", "Logits"]


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("Attention Outputs", "; the nearest is 'Attention Output'"),
        ("layer 0 atention output", "; the nearest is 'Layer 0 Attention Output'"),
        ("Layer 9 Value", "; the nearest is 'Layer "),
        ("Layer ? Nothing", ""),
        ("zzzzzzzz", "; -v shows all names, such as 'Layer 0 Attention Output'"),
    ],
)
def test_a_name_of_nothing_is_refused_with_the_nearest(pattern: str, nearest: str) -> None:
    """Beside names that are there, too."""
    with pytest.raises(UsageError) as refused:
        Selection(("Logits", pattern)).chosen(CHECKS)
    assert str(refused.value).startswith(f"--only {pattern}: no check is called so{nearest}")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_refused(name: str) -> None:
    """It would be a part of every title."""
    with pytest.raises(UsageError, match=r"^--only is empty"):
        parsed(["--only", name])


def test_nothing_asked_for_leaves_nothing_out() -> None:
    assert not Selection()
    assert Selection().chosen(CHECKS) == set(CHECKS)


def test_what_failed_is_chosen_in_the_case_in_which_it_failed() -> None:
    """All of a case whose run did not finish; with --only those that have both."""
    tp2, pp2 = (case.name for case in CASES)
    failed = {tp2: {"Logits", "Loss"}, pp2: EVERYTHING}
    assert Selection(("Logits", "Layer 1 Value"), failed).chosen(CHECKS) == {
        *((tp2, "Logits"), (pp2, "Logits"), (pp2, "Layer 1 Value"))
    }
    assert Selection((), {tp2: {"Loss"}}).chosen(CHECKS) == {(tp2, "Loss")}


def report(path: Path, case: int = 0, left_out: int = 0, **statuses: str) -> None:
    """A file of a case with checks of these names and statuses; its run left out so many."""
    checks = tuple(junit.Check("mla", name, status) for name, status in statuses.items())
    path.parent.mkdir(exist_ok=True)
    facts = case_facts(CASES[case]) | ({"left_out": str(left_out)} if left_out else {})
    junit.write(path, junit.Suite(CASES[case].name, checks, facts))


def wanted(folder: Path, *words: str) -> object:
    return failed_before(parsed(["--layouts", "tp2,pp2", "--results", str(folder), *words]), "")


def test_what_failed_before_is_in_the_reports(tmp_path: Path) -> None:
    """Known bugs did not fail. Nobody has seen a case without a report pass, so all of it is made."""
    report(tmp_path / f"{CASES[0].name}.xml", a="pass", b="fail", c="known", d="error", e="unevaluated")
    assert wanted(tmp_path) == {CASES[0].name: {"b", "d", "e"}, CASES[1].name: EVERYTHING}


def test_a_fuller_report_that_was_kept_counts_with_what_was_tried_since(tmp_path: Path) -> None:
    """A reproduction that passes is mended; the others are still to be mended."""
    name = CASES[0].name
    report(tmp_path / "before" / f"{name}-{case_facts(CASES[0])['case'][:8]}.xml", a="pass", b="fail", c="fail")
    report(tmp_path / f"{name}.xml", b="pass")
    assert wanted(tmp_path) == {name: {"c"}, CASES[1].name: EVERYTHING}


def test_what_was_never_made_has_not_passed(tmp_path: Path) -> None:
    """Nothing failed in runs that left checks out: a report that has all of them is needed to say that nothing is left."""
    first, second = (tmp_path / f"{case.name}.xml" for case in CASES)
    report(first, 0, a="pass", b="known")
    report(second, 1, left_out=3, a="pass")
    with pytest.raises(UsageError, match=r"^--last-failed: nothing failed before, but 3 of 6 checks were not made; run "):
        wanted(tmp_path)
    case = case_facts(CASES[1])["case"][:8]
    report(tmp_path / "before" / f"{second.stem}-{case}.xml", 1, left_out=1, a="fail", b="pass", c="pass")
    with pytest.raises(UsageError, match=r"but 1 of 6 checks was not made"):
        wanted(tmp_path)
    report(tmp_path / "before" / f"{second.stem}-{case}.xml", 1, a="fail", b="pass", c="pass", d="pass")
    assert wanted(tmp_path) == {CASES[0].name: set(), CASES[1].name: set()}


def test_what_failed_is_made_whatever_else_was_left_out(tmp_path: Path) -> None:
    report(tmp_path / f"{CASES[0].name}.xml", 0, left_out=3, a="fail", b="pass")
    report(tmp_path / f"{CASES[1].name}.xml", 1, left_out=4, a="pass")
    assert wanted(tmp_path) == {CASES[0].name: {"a"}, CASES[1].name: set()}


def test_a_command_with_nothing_to_make_says_so_and_passes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """If it is known that everything passes; else it is wrong usage."""
    words = ["run", "--layouts", "tp2,pp2", "--results", str(tmp_path), "--no-self-test", "--last-failed"]
    report(tmp_path / f"{CASES[0].name}.xml", 0, a="pass")
    report(tmp_path / f"{CASES[1].name}.xml", 1, a="pass")
    assert cli.main(words) == ExitCode.PASS
    assert "Nothing failed before: no check is made (--last-failed)\n" in capfd.readouterr().out
    report(tmp_path / f"{CASES[1].name}.xml", 1, left_out=1, a="pass")
    assert cli.main(words) == ExitCode.USAGE
    assert "error: --last-failed: nothing failed before, but 1 of 3 checks was not made" in capfd.readouterr().err


def test_a_run_that_did_not_finish_failed_as_a_whole(tmp_path: Path) -> None:
    name = CASES[1].name
    report(tmp_path / f"{CASES[0].name}.xml", a="pass")
    junit.write_unfinished(tmp_path / f"{name}.xml", name, case_facts(CASES[1]))
    assert wanted(tmp_path) == {CASES[0].name: set(), name: EVERYTHING}


def test_a_self_test_without_a_report_is_made(tmp_path: Path) -> None:
    for number in range(2):
        report(tmp_path / f"{CASES[number].name}.xml", number, a="pass")
    asked = parsed(["--layouts", "tp2,pp2", "--results", str(tmp_path)])
    assert failed_before(asked, "self-test") == {CASES[0].name: set(), CASES[1].name: set(), "self-test": EVERYTHING}


def test_a_report_of_another_case_of_that_name_says_nothing(tmp_path: Path) -> None:
    """It was made with other numbers of the model."""
    report(tmp_path / f"{CASES[0].name}.xml", b="fail")
    with pytest.raises(UsageError, match=r"^--last-failed: .* has no report of these cases; run them without it first"):
        wanted(tmp_path, "--set", "num_layers=2")


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / f"{CASES[0].name}.xml").write_text("<testsuites>")
    with pytest.raises(UsageError, match=r"^--last-failed: .*not JUnit XML.*; remove the file, or run the case again"):
        wanted(tmp_path)
