"""Every preset's data hold what makes faults show, and data that lack it are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from validation.case.case import Case
from validation.case.data import END, FULL, WIDEST, WITH_DOCUMENTS
from validation.case.layout import Layout
from validation.case.preset import PRESETS, Preset
from validation.case.training import OPTIONS, Training
from validation.cli import main
from validation.reference.batch import Batch, make_batch
from validation.reference.excitation import excited, lacking


def of(preset: Preset, tp: int = 2, shape: str = FULL, seed: int = 1234) -> Case:
    data = preset.batch_size, preset.micro_batch_size, preset.seq_length
    training = Training(data_shape=shape, stream=preset.stream)
    return Case(preset.name, preset.model, Layout(tp=tp), "fp64", "local", "gloo", seed, *data, training=training)


TINY, MINI = PRESETS["tiny"], PRESETS["mini"]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
@pytest.mark.parametrize("shape", OPTIONS["data_shape"])
def test_no_preset_lacks_anything(preset: Preset, shape: str) -> None:
    """In every layout, for several seeds, and in the batches of further steps. Layer by layer there is one shape."""
    if preset.stream and shape != FULL:
        return
    for tp in (tp for tp in (1, 2, 4, 8, 16) if preset.model.num_attention_heads % tp == 0):
        for seed in (1234,) if preset.stream else (1234, 1, 2):
            case = of(preset, tp, shape, seed)
            for step in (0, 1):
                assert lacking(case, make_batch(case, step)) == []


def test_every_thing_that_is_looked_for_is_in_some_shape() -> None:
    """Nothing is asked of data that no data have."""
    cases = [of(TINY, shape=shape) for shape in OPTIONS["data_shape"]]
    there = {one.what for case in cases for one in excited(case, make_batch(case)) if one.there}
    assert there == {one.what for one in excited(of(TINY), make_batch(of(TINY)))}


def test_random_tokens_lack_the_ends_of_shards() -> None:
    """What mini's tokens were, with which a mask that is wrong at the edge of a shard passed."""
    case = of(MINI, 4)
    stream = torch.randint(0, MINI.model.vocab_size, (2, 513), generator=torch.Generator().manual_seed(1234))
    mask = torch.ones(2, 512, dtype=torch.bool)
    assert [what for what in lacking(case, Batch(stream[:, :-1], stream[:, 1:], mask)) if "shards" in what] == [
        "first and last token of each of the 4 vocabulary shards, among the tokens",
        "first and last token of each of the 4 vocabulary shards, as a target that counts",
    ]


def test_one_document_is_not_several() -> None:
    case = of(TINY, shape="documents")
    batch = replace(make_batch(case), documents=torch.zeros(4, 48, dtype=torch.long), mask=torch.ones(4, 48, dtype=torch.bool))
    assert lacking(case, batch) == [
        "positions that do not count in the loss",
        "micro-batches with different numbers of tokens that count",
        "a sequence without loss",
        "documents that begin inside a sequence",
        "documents of one token",
        "documents that begin in the middle, where the parts of ranks meet",
    ]


@pytest.mark.parametrize("shape", OPTIONS["data_shape"])
def test_a_token_that_is_put_in_is_a_target_and_ends_no_document(shape: str) -> None:
    case = of(MINI, 2, shape)
    batch = make_batch(case)
    counted = batch.mask[:, :-1]
    assert torch.equal(batch.labels[:, :-1][counted], batch.tokens[:, 1:][counted])
    if shape in WITH_DOCUMENTS:
        assert not (batch.labels[batch.mask] == END).sum() > (batch.tokens == END).sum()


def test_the_command_says_what_lacks_and_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--preset", "mini", "--layout", f"tp{WIDEST}"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "mini / tp16: 2 sequences of 512 tokens, seed 1234"
    assert said[1] == "yes    first and last token of each of the 16 vocabulary shards, among the tokens: 32 of 32"
    assert "no     documents of one token: 0 (+documents, +packed and +packed-padded have it)" in said
    assert said[-1] == "nothing lacking"
    assert main(["data", "--layout", "tp2", "--batch-size", "2", "--seq-length", "2"]) == 1
    assert "LACKS  first and last token of each of the 2 vocabulary shards, among the tokens: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layout", "tp2,tp4"], "--layout tp2,tp4 names 2; give one"),
        (["--layout", "tp3"], "tp3 does not divide the 4 attention heads"),
        (["--preset", "small"], "known are tiny, mini, v3-layers"),
        (["--", "-x"], "data takes nothing behind --; leave it out"),
    ],
)
def test_wrong_usage_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
