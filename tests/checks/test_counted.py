"""What a case must have is counted twice, by pytest and without it; where the two differ, a manifest and a run say so."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.expected import Expected, load
from ci.junit import Check, Suite
from ci.page.run import judged
from ci.reasons import Origin, of_suite
from ci.table import rows
from tests.checks.conftest import ROOT, commands_in_turn
from validation.case.arrangement import parse
from validation.case.training import WORDS, Training
from validation.checks.counted import choices, counted, difference, planted
from validation.checks.left_out import LeftOut
from validation.checks.self_test import SelfTest
from validation.faults.plan import Plan
from validation.run.options import parsed

NAME = "tiny-single-fp64-local-gloo"
SHORT = ("--set", "num_layers=1", "--steps", "0", "--seq-length", "8")
SMALL = ("--set", "num_layers=2", "--steps", "1")
"""As few checks as show every kind of them."""
OF_TE = ("--implementation", "te", "--transport", "nccl")
_LAYOUTS: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, None]] = {}
for _row in rows():
    _of = (_row.preset, _row.precision, _row.implementation, _row.transport, _row.inference or "none")
    for _layout in _row.layouts:
        _own = parse(_layout, Training())[1].life or _row.inference  # a life says how many steps it takes, inference takes none
        _steps = SMALL[:2] if _own else SMALL
        _LAYOUTS.setdefault((_of, _steps), {})[_layout] = None
_OPTIONS = ("--preset", "--precision", "--implementation", "--transport", "--inference")
TABLE = [
    [*(word for pair in zip(_OPTIONS, values, strict=True) for word in pair), "--layouts", ",".join(layouts), *steps]
    for (values, steps), layouts in _LAYOUTS.items()
]
INFERRING = ("static", "dynamic")
"""Words of cases that take no steps."""
WORDS_ALONE = ",".join(
    ["single", *(f"single+{word}" for word in WORDS if "fp8" not in word and word not in INFERRING), "pp2+1-3", "single+stream"]
)
OTHERS = [
    ["--layouts", WORDS_ALONE, *SMALL],
    ["--layouts", "single+mtp,single+mtp2,pp2+mtp+aux,cp2+aux", *SMALL],
    ["--layouts", ",".join(f"single+{word}" for word in INFERRING), *SMALL[:2]],
    ["--layouts", "tp2"],
    ["--preset", "mini", "--layouts", "single,ep2+mtp"],
    ["--preset", "v3-layers", "--layouts", "tp2"],
    ["--isolated", "--layouts", "single,tp2+mtp,ep2+aux"],
    ["--isolated", "--precision", "bf16"],
    ["--steps", "5", "--set", "first_k_dense_replace=0"],
    ["--steps", "0", "--precision", "fp16", "--layouts", "dp2+mean"],
    [*OF_TE, "--precision", "bf16", "--layouts", "tp2,tp2+mtp,tp2+moe_router_fusion,tp2+fp8-delayed,single+fp8-blockwise"],
    [*OF_TE, "--precision", "fp32", "--isolated"],
    ["--set", "q_lora_rank=none", "--set", "n_shared_experts=0", "--set", "tie_word_embeddings=true"],
    ["--set", "first_k_dense_replace=4", "--layouts", "tp2nosp,dp2+mean"],
    ["--set", "rms_norm_eps=1e-5", "--layouts", "tp2,tp2etp1"],
    ["--implementation", "local-stock", "--layouts", "etp2,cp2+mean"],
]
"""Presets, option words, steps, precisions, implementations and models that have other checks than tiny's."""


def test_both_counts_agree_over_every_case(tmp_path: Path) -> None:
    """Every preset, layout of the table, option word, +mtp, isolated, steps and te: no manifest is refused."""
    wanted = [[*words, "--self-test"] for words in (*TABLE, *OTHERS)]
    paths = [tmp_path / f"{number}.json" for number in range(len(wanted))]
    commands = [["run", *words, "--manifest", str(path)] for words, path in zip(wanted, paths, strict=True)]
    assert [text for code, text in commands_in_turn(commands, tmp_path, tmp_path) if code] == []
    for words, path in zip(wanted, paths, strict=True):
        settings = parsed(words)
        suites = {suite.name: suite for suite in load(path).suites}
        assert {case.name: sorted(counted(case)) for case in settings.cases} == {
            case.name: sorted(suites[case.name].checks) for case in settings.cases
        }
        (of_self_test,) = (suite for suite in suites.values() if suite.ranks == 0)
        assert of_self_test.checks == planted(settings.cases)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("marks", f"{NAME}: "),
        ("plants", f"self-test-{NAME}: 1 of its 5 checks was not collected: Planted defect seen: attention scale "),
        ("items", f"{NAME}: "),
    ],
)
def test_a_mistake_in_what_pytest_is_told_shows_in_the_other_count(what: str, said: str, tmp_path: Path) -> None:
    """They share no table of layers, parameters or defects; the manifest is refused in one sentence."""
    path = tmp_path / "m.json"
    done = narrowed(what, ["--set", "num_layers=2", "--set", "first_k_dense_replace=0", "--manifest", str(path)], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
    assert " not collected: " in done.stderr
    assert done.stderr.endswith("; a manifest names every check, so leave out whatever selects checks\n")
    assert not path.exists()


def narrowed(what: str, words: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """A command that something within narrows (tests.checks.narrowed)."""
    return subprocess.run(
        [sys.executable, "-m", "tests.checks.narrowed", what, "run", "-v", "--self-test", *words],
        cwd=ROOT,
        env={**os.environ, "PLUMBLINE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=1800,
    )


def test_a_run_that_is_narrowed_from_within_is_red_and_says_by_how_much(cache: Path, tmp_path: Path) -> None:
    """No word was given to pytest, and yet checks are missing: each is an error, never an absence."""
    done = narrowed("items", [*SHORT, "--results", str(tmp_path)], cache)
    whole = parsed([*SHORT, "--self-test"])
    wanted = len(counted(whole.cases[0])) + len(planted(whole.cases))
    reported = junit.read(tmp_path / f"{NAME}.xml")
    missing = wanted - len(reported.checks)
    assert done.returncode == 1
    assert done.stdout.rstrip().splitlines()[-1] == (
        f"Left out: {missing} of {wanted} checks; nothing was given behind --, so something on this machine changes what "
        "pytest collects; find and remove it"
    )
    assert reported.properties["left_out"] == str(len(counted(whole.cases[0])) - len(reported.checks))


def test_a_user_s_own_check_may_be_more_and_is_counted_where_pytest_leaves_it_out() -> None:
    settings = parsed([*SHORT])
    (case,) = settings.cases
    own = ("my_component", "Layer 0 My Component")
    assert difference(counted(case), [*counted(case), own]) == ""
    left_out = LeftOut(settings, SelfTest(Plan(), case))
    reported = [Check(*name, "pass") for name in counted(case)]
    assert left_out.count(case.name, reported) == 0
    left_out.also(case.name, own)
    assert left_out.properties(case.name, reported) == {"left_out": "1"}
    assert left_out.total({case.name: reported[1:]}) == (2, len(reported) + 1)


def test_a_check_of_ours_that_no_count_knows_is_said() -> None:
    """Whoever adds a check to a module of ours adds it to the count."""
    (case,) = parsed([]).cases
    new = ("mla", "Layer 0 Something")
    assert difference(counted(case), [*counted(case), new]) == (
        "1 of its checks are in no count of them: Layer 0 Something (mla)"
    )


def test_choices_are_those_of_routers() -> None:
    (case,) = parsed(["--layouts", "single+mtp"]).cases
    names = ["Layer 1 Router Output", "Layer 2 Router Output", "Layer 3 Router Output", "MTP 0 Router Output"]
    assert [name for _, name in choices(case)] == names


def test_neither_page_nor_gate_takes_a_narrowed_testsuite_for_whole() -> None:
    (case,) = parsed([*SHORT]).cases
    checks = tuple(Check(*name, "pass", properties={"ranks": "0"}) for name in counted(case)[:3])
    whole = Suite(case.name, checks, {"commit": "a" * 40, "dirty": "false", "rank_0_place": "dp 0"})
    part = replace(whole, properties={**whole.properties, "left_out": "63"})
    assert judged([whole]).verdict == "pass"
    assert (judged([part]).verdict, judged([part]).reasons) == ("error", (f"{NAME}: 63 of its checks were left out",))
    expected = Expected("a.xml", case.name, 1, {}, (), tuple(counted(case)[:3]))
    assert list(of_suite(expected, whole, Origin("a" * 40))) == []
    (reason,) = of_suite(expected, part, Origin("a" * 40))
    assert reason.startswith("made without 63 of its checks, ")
