"""What was converted for an implementation and a layout fits these, and is refused by others, with what would work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.convert import folders
from tests.convert.folders import MODEL, MOONLIGHT, TIED, WITHOUT_MTP
from tests.convert.test_round_trip import convert
from validation.candidate.checkpoint import fits
from validation.candidate.checkpoint.fits import misfit
from validation.case import arrangement
from validation.case.case import Case
from validation.case.model import Model
from validation.case.training import Training

LAYOUTS = ("single", "tp2pp2", "tp2ep2", "pp2vpp2", "pp2+1-3")


def case(checkpoint: Path, implementation: str, layout: str = "single", model: Model = MODEL, **more: Any) -> Case:
    """A case whose candidate is that checkpoint."""
    found, training, _ = arrangement.parse(layout, Training())
    numbers = ("bf16", implementation, "nccl", 1, 4, 1, 32)
    return Case("hf", model, found, *numbers, training=training, candidate_checkpoint=str(checkpoint), **more)


def folder(tmp_path: Path, model: Model = MODEL) -> Path:
    return folders.write(tmp_path / "hf", model, folders.weights(model))


@pytest.mark.parametrize("implementation", ["te", "local", "local-stock"])
@pytest.mark.parametrize("model", [MODEL, MOONLIGHT, TIED], ids=["DeepSeek-V3", "Moonlight", "tied"])
def test_torch_dist_fits_every_layout_of_its_implementation(model: Model, implementation: str, tmp_path: Path) -> None:
    """Whatever layout it was cut for; without its MTP layer, too, and a spec of one's own, whose names nobody knows."""
    made = convert(folder(tmp_path, model), tmp_path / "mcore", "--layout", "tp2pp2", "--implementation", implementation)
    for layout in LAYOUTS:
        assert misfit(case(made, implementation, layout, model)) is None
        assert misfit(case(made, implementation, layout, replace(model, num_nextn_predict_layers=0))) is None
        assert misfit(case(made, "spec:layers", layout, model)) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("implementation", ["te", "local", "local-stock"])
def test_legacy_fits_its_own_layout_and_implementation(implementation: str, layout: str, tmp_path: Path) -> None:
    words = ("--layout", layout, "--implementation", implementation, "--format", "legacy")
    made = convert(folder(tmp_path), tmp_path / "mcore", *words)
    assert misfit(case(made, implementation, layout)) is None
    assert "+mtp behind the layout loads it" in str(misfit(case(made, implementation, layout, WITHOUT_MTP)))


@pytest.mark.parametrize(
    ("tested", "made_for"), [("0.16.1", "0.19.2"), ("0.19.2", "0.16.1"), ("0.19.2", "0.17.0"), ("0.15.3", "0.16.1")]
)
def test_a_rank_s_file_has_the_names_of_its_release(
    tested: str, made_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What 0.17 renamed keeps the file from being loaded by the others; without MTP layers, and in torch_dist, nothing does."""
    monkeypatch.setattr(fits, "version", lambda package: tested)
    origin = folder(tmp_path)
    words = ("--implementation", "local", "--megatron-core", made_for)
    said = misfit(case(convert(origin, tmp_path / "legacy", "--format", "legacy", *words), "local"))
    if (tested < "0.17") == (made_for < "0.17"):
        assert said is None
    else:
        assert f"`convert --format legacy --megatron-core {tested}` writes its names" in str(said)
    assert misfit(case(convert(origin, tmp_path / "torch_dist", *words), "local")) is None
    without = convert(origin, tmp_path / "without", "--format", "legacy", "--no-mtp", *words)
    assert misfit(case(without, "local", model=WITHOUT_MTP)) is None


@pytest.mark.parametrize("format_", ["torch_dist", "legacy"])
def test_the_other_implementation_is_named(format_: str, tmp_path: Path) -> None:
    """Transformer Engine's core attentions have no weights; a run of te is told that local works, and the reverse."""
    origin = folder(tmp_path)
    te, local = (convert(origin, tmp_path / word, "--implementation", word, "--format", format_) for word in ("te", "local"))
    assert misfit(case(te, "te-fused")) is None
    assert (
        f"{te}: its tensors have the names of --implementation te, and this run's is local-stock; --implementation te works"
        in (str(misfit(case(te, "local-stock"))))
    )
    assert "--implementation local works, or convert the HuggingFace folder again with --implementation te" in (
        str(misfit(case(local, "te")))
    )


def test_a_larger_vocabulary_is_padding(tmp_path: Path) -> None:
    """Training makes it so that tensor parallelism divides it, and megatron-core loads what there is."""
    made = convert(folder(tmp_path), tmp_path / "mcore")
    assert misfit(case(made, "te", model=replace(MODEL, vocab_size=120))) is None
    assert "has shape (128, 64) and the model needs (136, 64)" in str(
        misfit(case(made, "te", model=replace(MODEL, vocab_size=136)))
    )
