"""The lower precisions, for real: the clean model passes near its floor, wrong ones fail where fixed rules are blind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.checks.conftest import BROKEN, LAYERS, Output, outputs_of

SHARED = ["--set", f"num_layers={LAYERS}"]
WRONG = {
    "yarn_scale_dropped": ("single", "Layer 0 Core Attention Output"),
    "reduction_lost": ("tp2", "Layer 0 Attention Output"),
    "gradient_reduction_lost": ("tp2", "Layer 1 Router Weight Gradient"),
}
"""Defects of broken_specs, the layout that shows them, and the first tensor that is wrong in fp64."""
BIASES = [
    ("bias_rounded_where_it_is_used", "end to end"),
    ("bias_rounded_where_it_is_used", "isolated"),
    ("bias_too_small_where_it_is_used", "end to end"),
]
COMMANDS = {
    **{
        precision: [*SHARED, "--layouts", "single,tp2,pp2+mtp", "--precision", precision, "--steps", steps]
        for precision, steps in (("fp32", "2"), ("bf16", "2"), ("fp16", "0"))
    },
    **{
        f"{defect} {way}": [
            *(*SHARED, "--layouts", "single,tp2+mtp", "--precision", "bf16", *(["--isolated"] if way == "isolated" else [])),
            *("--implementation", f"{BROKEN}:{defect}"),
        ]
        for defect, way in BIASES
    },
    "four layers": ["--layouts", "single", "--precision", "bf16"],
    **{
        defect: [*SHARED, "--layouts", layout, "--precision", "bf16", "--implementation", f"{BROKEN}:{defect}"]
        for defect, (layout, _) in WRONG.items()
    },
}


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Each command's output."""
    return outputs_of(COMMANDS, cache, tmp_path_factory)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_clean_model_passes_near_its_floor(precision: str, runs: dict[str, Output]) -> None:
    """On one rank and on two, steps, too; every compared tensor says how far from the truth it is, in floors."""
    found = runs[precision]
    assert found.code == 0, found.text[-2000:]
    ratios = [float(number) for number in re.findall(r"\(([\d.e+-]+)x floor\)", found.text)]
    assert len(ratios) > 300
    assert 0.3 < max(ratios) <= 2


def test_routers_that_flip_at_near_ties_pass_and_are_counted(runs: dict[str, Output]) -> None:
    """In bf16 some tokens of four layers choose otherwise; the line says how many, and by how much they could."""
    found = runs["four layers"]
    assert found.code == 0
    line = (
        r"^PASS: Layer \d Router Output - .* [1-9]\d* of 768 routes differs?, near-ties: [1-9]\d* tokens flip, margin at most "
    )
    assert re.search(line, found.text, re.MULTILINE)


@pytest.mark.parametrize(("defect", "way"), BIASES)
def test_a_bias_that_is_off_fails_where_every_choice_could_be_a_near_tie(
    defect: str, way: str, runs: dict[str, Output]
) -> None:
    """It is asked of the very scores that the router had, which no rounding has changed since; on one rank and on two."""
    found = runs[f"{defect} {way}"]
    assert found.code == 1
    routers = ["Layer 1 Router Output", "Layer 1 Router Output", "MTP 0 Router Output"]
    assert sorted(found.titles("FAIL")) == routers
    assert len(re.findall(r"19\d tokens choose by other scores than their own with the bias \(off by at most", found.text)) >= 2
    if defect == "bias_too_small_where_it_is_used":
        assert len(re.findall(r"\d tokens' experts are not those that their own scores and the bias give", found.text)) >= 3


@pytest.mark.parametrize("defect", WRONG)
def test_a_wrong_model_fails_in_bf16_where_it_is_wrong(defect: str, runs: dict[str, Output]) -> None:
    """The same first tensor as in fp64, many times its floor away."""
    found, (layout, first) = runs[defect], WRONG[defect]
    assert found.code == 1
    (ratio,) = re.findall(rf"^First in {layout}: FAIL: {first} - .*?\(([\d.e+]+)x floor\)", found.text, re.MULTILINE)
    assert float(ratio) > 10
