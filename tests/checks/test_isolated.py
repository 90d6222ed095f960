"""Isolated cases, for real: every module gets the reference's input, so that an error shows only where it is made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.checks.conftest import BROKEN, LAYERS, Output, outputs_of, warm

CLEAN = "single,tp2ep2,ep2etp2+allgather,cp2ep2+full,pp2+mtp"
SHARED = ["--set", f"num_layers={LAYERS}"]
COMMANDS = {
    "clean": ["--isolated", "--layouts", CLEAN],
    "isolated in bf16": ["--isolated", "--layouts", "tp2", "--precision", "bf16"],
    "plain in bf16": ["--layouts", "tp2", "--precision", "bf16"],
    **{
        defect: ["--isolated", "--layouts", layout, "--implementation", f"{BROKEN}:{defect}"]
        for defect, layout in {
            "reduction_lost": "tp2",
            "yarn_scale_dropped": "single",
            "dispatched_in_the_wrong_order": "tp2ep2",
            "mapped_wrongly": "single",
        }.items()
    },
}


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Each command's output."""
    return outputs_of({name: [*SHARED, *command] for name, command in COMMANDS.items()}, cache, tmp_path_factory)


def test_the_clean_model_passes_with_dispatch_and_experts_apart(runs: dict[str, Output]) -> None:
    """Forward and backward in every kind of layout; no rounding adds up: nothing is further off than one module makes it."""
    found = runs["clean"]
    assert found.code == 0, found.text[-2000:]
    for title in ("Dispatched Tokens", "Weighted Expert Outputs"):
        for kind in ("", " Gradient"):
            assert found.titles("PASS").count(f"Layer 1 {title}{kind}") == 5
    assert max(float(error) for error in re.findall(r"\(relative (\S+)\)", found.text)) < 2e-15


def test_the_floor_of_one_module_is_lower_than_that_of_all_before_it(runs: dict[str, Output]) -> None:
    """In bf16 the clean model passes, and the limit of the last layer's output is a fraction of what it is end to end."""
    floors = []
    for found in (runs["isolated in bf16"], runs["plain in bf16"]):
        assert found.code == 0, found.text[-2000:]
        (file,) = found.results.glob("*.xml")
        (check,) = found.suite(file.stem).findall("testcase[@name='Layer 1 Layer Output']")
        floors += [float(item.get("value") or "nan") for item in check.findall("properties/property[@name='floor']")]
    isolated, plain = floors
    assert isolated < plain / 2


@pytest.mark.parametrize(
    ("defect", "failing", "kind"),
    [
        ("reduction_lost", ["Layer 0 Attention Output"], "sharding"),
        ("yarn_scale_dropped", [f"Layer {layer} Core Attention Output" for layer in range(LAYERS)], "modelling"),
        ("dispatched_in_the_wrong_order", ["Layer 1 Dispatched Tokens"], "modelling"),
        ("mapped_wrongly", ["Layer 1 Weighted Expert Outputs"], "modelling"),
    ],
)
def test_only_the_module_that_is_wrong_fails(defect: str, failing: list[str], kind: str, runs: dict[str, Output]) -> None:
    """Of all forward tensors; without isolation everything behind it fails, too."""
    found = runs[defect]
    assert found.code == 1, found.text[-2000:]
    assert [title for title in found.titles("FAIL") if not title.endswith("Gradient")] == failing
    assert kind in found.line(failing[0])
    assert re.search(r"^Reproduce: .* --isolated ", found.text, re.MULTILINE)


def test_steps_are_refused(cache: Path) -> None:
    """Before anything starts, with what would work."""
    done = warm(["run", "--isolated", "--steps", "1"], cache)
    assert done.returncode == 2
    assert "--isolated compares the modules of one forward and backward pass; leave out --steps" in done.stderr
