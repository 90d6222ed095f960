"""The lower precisions, for real: the clean model passes near its floor, wrong ones fail where fixed rules are blind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.checks.conftest import BROKEN, LAYERS, Output, command

SHARED = ["--set", f"num_layers={LAYERS}"]


def run(words: list[str], cache: Path, results: Path) -> Output:
    done = command(["run", *SHARED, *words, "--results", str(results)], cache)
    return Output(done.returncode, done.stdout + done.stderr, results)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_clean_model_passes_near_its_floor(precision: str, cache: Path, tmp_path: Path) -> None:
    """On one rank and on two; every compared tensor says how far from the truth it is, in floors."""
    found = run(["--layouts", "single,tp2,pp2+mtp", "--precision", precision], cache, tmp_path)
    assert found.code == 0, found.text[-2000:]
    ratios = [float(number) for number in re.findall(r"\(([\d.e+-]+)x floor\)", found.text)]
    assert len(ratios) > 300
    assert 0.3 < max(ratios) <= 2


def test_routers_that_flip_at_near_ties_pass_and_are_counted(cache: Path, tmp_path: Path) -> None:
    """In bf16 some tokens of four layers choose otherwise; the line says how many, and by how much they could."""
    done = command(["run", "--layouts", "single", "--precision", "bf16", "--results", str(tmp_path)], cache)
    assert done.returncode == 0
    line = r"^PASS: Layer \d Router Output - .* [1-9]\d* of 768 routes differ, near-ties: [1-9]\d* tokens flip, margin at most "
    assert re.search(line, done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("defect", "layout", "first"),
    [
        ("yarn_scale_dropped", "single", "Layer 0 Core Attention Output"),
        ("reduction_lost", "tp2", "Layer 0 Attention Output"),
        ("gradient_reduction_lost", "tp2", "Layer 1 Router Weight Gradient"),
    ],
)
def test_a_wrong_model_fails_in_bf16_where_it_is_wrong(
    defect: str, layout: str, first: str, cache: Path, tmp_path: Path
) -> None:
    """The same first tensor as in fp64, many times its floor away."""
    found = run(["--layouts", layout, "--precision", "bf16", "--implementation", f"{BROKEN}:{defect}"], cache, tmp_path)
    assert found.code == 1
    (ratio,) = re.findall(rf"^First in {layout}: FAIL: {first} - .*?\(([\d.e+]+)x floor\)", found.text, re.MULTILINE)
    assert float(ratio) > 10


def test_steps_are_refused(cache: Path, tmp_path: Path) -> None:
    """Before anything starts, with what would work."""
    found = run(["--layouts", "single", "--precision", "bf16", "--steps", "2"], cache, tmp_path)
    assert found.code == 2
    assert "optimizer steps are compared in fp64 and the precision is bf16; leave out --steps" in found.text
