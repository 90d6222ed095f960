"""What a run tells by default: one case in about thirty lines, several in a row each, and all of it if asked for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.checks import told
from validation.case.probes import observed
from validation.checks.every_line import EveryLine
from validation.checks.labels import labels
from validation.checks.one_case import OneCase
from validation.checks.outcome import Outcome
from validation.checks.progress import Progress
from validation.checks.rows import Rows
from validation.checks.styles import FEW, style_of
from validation.checks.terminal import Silence
from validation.run.options import parsed

WANTED = parsed(["--layouts", "tp2"])
(CASE,) = WANTED.cases


def one_case(outcomes: list[Outcome]) -> list[str]:
    """The lines that tell them."""
    terminal, writer = told.terminal()
    style = OneCase(terminal, CASE)
    style.begin(CASE.name, f"===== {CASE.title} =====")
    for outcome in outcomes:
        style.checked(outcome, undecided=False)
    style.end(CASE.name, 1.0)
    return writer.text.splitlines()


def titles(lines: list[str], status: str) -> list[str]:
    return [found[1] for line in lines if (found := re.match(rf"{status}: (.+?)(?: - |$)", line))]


def test_a_sound_case_has_about_thirty_lines() -> None:
    """Of every layer attention, MLP or experts, and the router; the end of the model; the rest in a line for each kind."""
    lines = one_case([*told.forward(CASE), *told.gradients(CASE)])
    layers = CASE.model.num_hidden_layers
    shown = titles(lines, "PASS")
    assert [title for title in shown if title.endswith("Attention Output")] == [
        f"Layer {layer} Attention Output" for layer in range(layers)
    ]
    assert [title for title in shown if title.endswith(("MLP Output", "MoE Output"))] == [
        f"Layer {layer} {'MLP' if layer in CASE.model.dense_layers else 'MoE'} Output" for layer in range(layers)
    ]
    assert [title for title in shown if "Router" in title] == [
        f"Layer {layer} Router Output" for layer in CASE.model.moe_layers
    ]
    assert {"Logits", "Token Losses", "Loss", "Final Norm Output"} <= set(shown)
    assert len(lines) <= 32


def test_every_check_is_a_line_or_counted_in_one() -> None:
    outcomes = [*told.forward(CASE), *told.gradients(CASE)]
    lines = one_case(outcomes)
    summed = [int(count) for line in lines for count in re.findall(r"^PASS: [^-]+, (\d+) checks? - ", line)]
    assert sum(summed) + len(titles(lines, "PASS")) - len(summed) == len(outcomes)


def test_what_is_summed_up_names_the_worst() -> None:
    """The one that is nearest to its limit, with its numbers."""
    (line,) = [line for line in one_case(told.gradients(CASE)) if line.startswith("PASS: Probe Gradients")]
    last = next(iter(observed(CASE).values())).title
    assert line.endswith(f"Max diff: 0.000001, Avg diff: 0.000000, worst at {last} Gradient")


def test_a_failure_that_has_no_line_gets_one() -> None:
    """In its section, before the sums."""
    lines = one_case(told.forward(CASE, {"layers.2.attention.query"}))
    assert titles(lines, "FAIL") == ["Layer 2 Query after RoPE"]
    assert lines.index("--- Multi-Latent Attention (MLA) ---") < lines.index("FAIL: Layer 2 Query after RoPE - " + NUMBERS)


NUMBERS = "Max diff: 0.000001, Avg diff: 0.000000"


def test_of_many_failures_the_first_in_the_flow_of_data_are_told_and_the_rest_counted() -> None:
    """A lost reduction makes hundreds."""
    names = list(observed(CASE))
    failing = set(names[names.index("layers.0.attention.core") :])
    outcomes = [*told.forward(CASE, failing), *told.gradients(CASE, failing=60)]
    lines = one_case(outcomes)
    shown = titles(lines, "FAIL")
    assert "Layer 0 Core Attention Output" in shown
    assert not any(title.endswith("Gradient") for title in shown)
    (counted,) = [line for line in lines if line.startswith("...")]
    hidden = sum(outcome.status == "fail" for outcome in outcomes) - len(shown)
    assert counted == f"... and {hidden} more fail behind these; -v shows all"
    assert len(lines) < 60


def test_known_bugs_do_not_fill_the_screen() -> None:
    """Three lines, and how many more; the run's end says by how much they differ."""
    lines = one_case(told.forward(CASE, {name for name in observed(CASE) if "residual" in name or "norm" in name}, "known"))
    assert len([title for title in titles(lines, "KNOWN") if title != "Final Norm Output"]) == 3
    assert any(re.fullmatch(r"\.\.\. and \d+ more show known upstream bugs; -v shows all", line) for line in lines)


def test_the_checks_of_a_user_s_own_module_have_lines() -> None:
    own = Outcome("pass", "My Component", "PASS: My Component", "Own Checks", "mine.test_mine")
    assert "PASS: My Component" in one_case([*told.forward(CASE), own])


def rows(outcomes: dict[str, list[Outcome]]) -> list[str]:
    """The lines that tell several cases, by their arrangements."""
    terminal, writer = told.terminal()
    cases = parsed(["--layouts", ",".join(outcomes)]).cases
    style = Rows(terminal, Progress(lambda text: None, in_place=False), cases)
    for case in cases:
        style.begin(case.name, f"===== {case.title} =====", "Plugin: mine.py runs in every rank")
        for outcome in outcomes[case.arrangement]:
            style.checked(outcome, undecided=False)
        style.end(case.name, 3.25)
    return writer.text.splitlines()


def test_several_cases_are_a_row_each() -> None:
    """Verdict, checks, time, and the tensor that is nearest to its limit or the first that fails."""
    sound, broken = told.gradients(CASE), told.forward(CASE, {"layers.1.output", "layers.0.attention.output"})
    plugin, single, tp2 = rows({"single": sound, "tp2+distributed": broken})
    assert plugin == "Plugin: mine.py runs in every rank"
    last = next(iter(observed(CASE).values())).title
    assert re.fullmatch(
        rf"PASS   single           +{len(sound)} checks     3\.2 s  worst: {last} Gradient, 0\.0\d+ of its limit", single
    )
    first = "first: Layer 0 Attention Output, 1e-05 of its limit, 2 fail"
    assert re.fullmatch(rf"FAIL   tp2\+distributed  +{len(broken)} checks     3\.2 s  {first}", tp2)


def test_cases_that_differ_in_precision_alone_have_rows_that_say_it() -> None:
    """As those of a recipe do."""
    assert list(labels([CASE, replace(CASE, precision="bf16")]).values()) == ["tp2 in fp64", "tp2 in bf16"]
    assert list(labels([CASE, replace(CASE, seed=1)]).values()) == ["tp2", "tp2"]


def test_the_self_test_is_a_row_and_what_was_not_seen_has_a_line() -> None:
    """The gate is blind to it."""
    terminal, writer = told.terminal()
    style = Rows(terminal, Progress(lambda text: None, in_place=False), WANTED.cases)
    seen = Outcome("pass", "Planted defect seen: rope", "PASS: seen", "Self-Test", "self_test")
    style.begin("self-test-tiny", "===== self-test =====", "Not planted: expert order - no experts")
    style.checked(seen, undecided=False)
    style.checked(replace(seen, status="fail", line="FAIL: not seen"), undecided=False)
    style.end("self-test-tiny", 2.0)
    assert writer.text.splitlines() == [
        "Not planted: expert order - no experts",
        "FAIL: not seen",
        "FAIL   self-test      2 checks     2.0 s  1 planted defect seen, 1 fail",
    ]


def test_a_stack_is_told_once_for_each_case() -> None:
    """Of a run that broke, or of a check that raised."""
    raised = Outcome("error", "My Check", "ERROR: My Check", "Own Checks", "mine.test_mine", details="Traceback ...")
    lines = rows({"single": [raised, raised], "tp2": told.forward(CASE)})
    assert lines.count("Traceback ...") == 1
    assert [line[:13] for line in lines if "checks" in line] == ["ERROR  single", "PASS   tp2   "]


@pytest.mark.parametrize(
    ("words", "checks", "style"),
    [
        (["--layouts", "tp2"], 600, OneCase),
        (["--layouts", "tp2,pp2"], 600, Rows),
        (["--layouts", "tp2", "-v"], 600, EveryLine),
        (["--layouts", "tp2,pp2", "-v"], 600, EveryLine),
        (["--layouts", "tp2", "--debug"], 600, EveryLine),
        (["--layouts", "tp2,pp2"], FEW, EveryLine),
        (["--layouts", "tp2", "-q"], 600, Silence),
        (["--layouts", "tp2", "-v", "-q"], 1, Silence),
    ],
    ids=str,
)
def test_the_style_fits_the_run_unless_one_is_asked_for(words: list[str], checks: int, style: type) -> None:
    """The last of -v and -q counts."""
    terminal, _ = told.terminal()
    assert type(style_of(parsed(words), terminal, Progress(print, in_place=False), checks)) is style
