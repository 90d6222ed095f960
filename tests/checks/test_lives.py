"""What happens between steps changes nothing, in another layout, too; a defect there fails in the step behind it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tests.checks.conftest import LAYERS, Output, outputs_of

SMALL = ["--set", f"num_layers={LAYERS}", "--batch-size", "4", "--seq-length", "16"]
DEFECTS = {
    "l01": ("step-evaluate-step", "fp64", "Step 2 Layer 1 Router Expert Bias"),
    "l07": ("step-resume-step", "fp64", "Step 2 Embedding Weight First Moment"),
    "l02": ("load-step", "bf16", "Step 1 Master Embedding Weight"),
    "l06": ("step-resume-step", "bf16", "Step 2 Master Embedding Weight"),
    "l17": ("step-resume-step", "bf16", "Step 2 Embedding Weight First Moment"),
    "g02": ("step-save-step", "bf16", "Step 2 Gradient Norm"),
}
"""A fault of the catalogue for each event, with a life that shows it, the precision, and the first check that must fail."""
SOUND = "tp2+step-evaluate-resume-pp2-step+scheduler.lr_decay_style=linear,dp2+distributed+step-save-step-resume-tp2-step"
JUDGED = "dp2+distributed+step-evaluate-step,tp2+step-resume-pp2-step"
LOST = """
def stepped(case, chunks, step):
    scale = chunks[0].scale_gradients

    def scaled(factor):
        scale(factor)
        chunks[0].module.module.decoder.final_layernorm.weight.main_grad.zero_()

    chunks[0].scale_gradients = scaled
"""
"""A gradient that is lost from step 2 on, which both sides multiply."""
COMMANDS = {
    "judged": [*SMALL, "--layouts", JUDGED, "--precision", "bf16", "--debug"],
    "sound": [*SMALL, "--set", "rms_norm_eps=1e-5", "--layouts", SOUND],
    **{
        defect: [
            *SMALL,
            "--layouts",
            f"single+{life}",
            "--precision",
            precision,
            "--plugin",
            f"validation.faults.catalogue.{defect}",
        ]
        for defect, (life, precision, _) in DEFECTS.items()
    },
}


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Each command's output."""
    plugin = tmp_path_factory.mktemp("plugin") / "lost.py"
    plugin.write_text(LOST)
    lost = [*SMALL, "--layouts", "single", "--precision", "bf16", "--steps", "2", "--plugin", str(plugin)]
    return outputs_of({**COMMANDS, "lost": lost}, cache, tmp_path_factory)


def test_a_sound_life_changes_no_number(runs: dict[str, Output]) -> None:
    """Two ranks by tensors go on as two stages; a distributed optimizer's shares go on as two others.

    A resumed model is given the reference's epsilon, as the first one is.
    """
    assert runs["sound"].code == 0, runs["sound"].text[-2000:]


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_between_steps_fails_in_the_next(defect: str, runs: dict[str, Output]) -> None:
    found, first = runs[defect], DEFECTS[defect][2]
    assert found.code == 1, found.text[-2000:]
    assert f": FAIL: {first} - " in found.text
    assert found.text.split("\nFirst in ")[1].split(": FAIL: ")[1].startswith(f"{first} - ")


def test_ranks_say_which_second_moments_the_formula_has_judged(runs: dict[str, Output]) -> None:
    """All of a distributed optimizer's, though each rank steps a share; behind a resume in another layout none."""
    assert runs["judged"].code == 0, runs["judged"].text[-2000:]
    found: dict[tuple[bool, str], list[bool]] = defaultdict(list)
    for path in (runs["judged"].results / "debug").glob("*/rank-*.json"):
        for name, judged in json.loads(path.read_text())["by_formula"].items():
            found["resume" in path.parent.name, name.split("/")[1]].append(judged)
    assert {of: set(judged) for of, judged in found.items()} == {
        (False, "1"): {True},
        (False, "2"): {True},
        (True, "1"): {True},
        (True, "2"): {False},
    }
    assert min(map(len, found.values())) > 30


def test_a_gradient_that_is_lost_from_the_second_step_on_fails_by_itself(runs: dict[str, Output]) -> None:
    """All of it is missing there. In the first moment, which has most of step 1's, it is less."""
    found = runs["lost"]
    assert found.code == 1, found.text[-2000:]
    line = found.line("Step 2 Final Norm Weight Gradient")
    assert line.startswith("FAIL: ")
    assert "relative error 1.00e+00 > " in line
    assert "Step 2 Final Norm Weight First Moment" in found.titles("FAIL")
    assert not [title for title in found.titles("FAIL") if title.endswith("Weight Gradient") and "Final Norm" not in title]
