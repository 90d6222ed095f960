"""megatron-core loads what was written, in other layouts than it was written for, and computes what HuggingFace computes."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.checks.conftest import commands_in_turn
from tests.convert import folders
from tests.convert.folders import MODEL
from tests.convert.test_round_trip import convert as convert_here
from tests.convert.test_strangers import poison_common, poison_extra_states
from validation.run.options import parsed


class Output(NamedTuple):
    """Exit code and all that was printed."""

    code: int
    text: str

    def failed(self) -> list[str]:
        """The titles of the checks that failed."""
        return re.findall(r"^FAIL: (.+?) - ", self.text, re.MULTILINE)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Commands as a user types them, in one process."""
    place, texts = tmp_path_factory.mktemp("parity"), tmp_path_factory.mktemp("texts")
    weights = folders.weights(MODEL)
    folders.write(place / "hf", MODEL, weights)
    weights["model.layers.2.mlp.experts.7.up_proj.weight"][3, 5] += 0.5
    folders.write(place / "wrong_hf", MODEL, weights)
    small = replace(MODEL, vocab_size=96)
    folders.write(place / "small_hf", small, folders.weights(small))
    poisoned = shutil.copytree(
        convert_here(place / "hf", place / "whole", "--implementation", "local", "--jobs", "1"), place / "poisoned"
    )
    poison_common(poisoned / "release", place / "common was run")
    poison_extra_states(poisoned / "release", place / "extra states were run")
    (place / "cut").mkdir()
    (place / "cut" / ".metadata").write_bytes(b"\x80\x04")

    numbers = itertools.count()

    def convert(origin: str, to: str, *words: str) -> list[str]:
        return ["convert", "--hf-model-path", f"{place}/{origin}", "--save", f"{place}/{to}", "--jobs", "1", *words]

    def run(checkpoint: str, layouts: str, *words: str) -> list[str]:
        there = ["--candidate-checkpoint", f"{place}/{checkpoint}", "--layouts", layouts, "--seq-length", "16"]
        # Each in a folder of its own: a run says first which report of an earlier one it leaves in place.
        results = f"{place}/results{next(numbers)}"
        return ["run", "-v", "--hf-model-path", f"{place}/hf", *there, "--results", results, *words]

    commands = {
        "for tp2pp2": convert("hf", "torch_dist", "--layout", "tp2pp2", "--implementation", "local"),
        "torch_dist": run("torch_dist", "tp2ep2,pp2+mtp"),
        "for tp2": convert("hf", "legacy", "--layout", "tp2", "--format", "legacy", "--implementation", "local"),
        "legacy": run("legacy", "tp2+mtp"),
        "poisoned": run("poisoned", "tp2"),
        "wrong": convert("wrong_hf", "wrong", "--implementation", "local"),
        "one element": run("wrong", "tp2"),
        "of te": convert("hf", "te"),
        "another implementation": run("te", "single"),
        "another layout": run("legacy", "pp2"),
        "legacy with a layer too many": run("legacy", "tp2"),
        "other layers": run("torch_dist", "single", "--layers", "1,2"),
        "first layers": run("torch_dist", "single", "--layers", "0,1"),
        "of two layers": convert("hf", "two", "--layers", "0,1", "--no-mtp", "--implementation", "local"),
        "too few layers": run("two", "single"),
        "no MTP layer": run("two", "single+mtp"),
        "of another model": convert("small_hf", "small", "--implementation", "local"),
        "other sizes": run("small", "single"),
        "not whole": run("cut", "single"),
    }
    found = commands_in_turn(list(commands.values()), place / "cache", texts)
    return {name: Output(*one) for name, one in zip(commands, found, strict=True)}


@pytest.mark.parametrize("name", ["torch_dist", "legacy", "poisoned"])
def test_all_checks_hold_on_what_was_converted(name: str, outputs: dict[str, Output]) -> None:
    """Weights to the bit, forward, backward: dist_checkpointing.load in other layouts, torch.load in the same."""
    assert outputs[name].code == 0, outputs[name].text
    assert "Overall result: PASS" in outputs[name].text


def test_ranks_run_no_code_of_a_checkpoint(outputs: dict[str, Output], tmp_path_factory: pytest.TempPathFactory) -> None:
    """megatron-core would run what stands in common.pt and in the extra states: they are not read."""
    assert outputs["poisoned"].code == 0
    assert not list(tmp_path_factory.getbasetemp().glob("parity*/* run"))


def test_one_wrong_element_fails_the_check_of_its_weight(outputs: dict[str, Output]) -> None:
    """The candidate's weights are the checkpoint's, and are compared with the folder's."""
    assert outputs["one element"].code == 1
    assert outputs["one element"].failed()[0] == "Layer 2 Experts Up Weight"
    assert "worst at [7, 3, 5]" in outputs["one element"].text
    assert len([title for title in outputs["one element"].failed() if title.endswith("Weight")]) == 1


MISFITS = {
    "another implementation": "its tensors have the names of --implementation te, and this run's is local; --implementation te "
    "works, on GPUs, or convert the HuggingFace folder again with --implementation local",
    "another layout": "it has no mp_rank_00_000/model_optim_rng.pt, which layout pp2 loads; .*`convert --format legacy",
    "legacy with a layer too many": "it has model.mtp.layers.0.* and the model has no such tensor; .mtp behind",
    "other layers": r"it has 4 layers and the model has 2 .--layers 1,2 of .*convert and run with the same --layers",
    "too few layers": "it has 2 layers and the model has 4 .all layers of .*convert and run with the same --layers",
    "no MTP layer": "it has no MTP layer; leave out .mtp, or convert the HuggingFace folder again without --no-mtp",
    "other sizes": r"embedding.word_embeddings.weight has shape \(96, 64\) and the model needs \(128, 64\)",
    "not whole": r".*\.metadata cannot be read .*; the checkpoint is not whole",
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_wrong_usage(name: str, outputs: dict[str, Output]) -> None:
    """One sentence, before the start: what is wrong with it, and what would work."""
    assert outputs[name].code == 2
    assert re.search(rf"^error: --candidate-checkpoint .*: {MISFITS[name]}", outputs[name].text), outputs[name].text
    assert outputs[name].text.count("\n") == 1


def test_the_first_layers_of_a_checkpoint_are_enough(outputs: dict[str, Output]) -> None:
    """Of one that was converted whole; they are the same layers in both."""
    assert outputs["first layers"].code == 0, outputs["first layers"].text


def test_the_command_that_reproduces_a_failure_names_the_checkpoint(outputs: dict[str, Output]) -> None:
    """Without it another model would be run."""
    (line,) = re.findall(r"^Reproduce: (.+)$", outputs["one element"].text, re.MULTILINE)
    assert "--candidate-checkpoint" in line


def test_no_checkpoint_there(tmp_path: Path) -> None:
    """Said before anything starts."""
    from validation.case.errors import UsageError

    with pytest.raises(UsageError, match="no Megatron checkpoint there"):
        parsed(["--candidate-checkpoint", str(tmp_path)])
