"""The model of a padded vocabulary is transformers' own with resized embeddings; a folder's rows of padding are zeros."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.training import Training
from validation.reference.batch import make_batch
from validation.reference.checkpoint import Checkpoint
from validation.reference.model import build
from validation.reference.record import record_step
from validation.reference.sources import Precision

PLAIN = replace(TINY.model, vocab_size=129, num_hidden_layers=2, n_routed_experts=8)
PADDED = replace(PLAIN, padded_vocab_size=136)
CASE = Case("tiny", PLAIN, Layout(), "fp32", "local", "gloo", 1234, 1, 1, 8)
BATCH = make_batch(CASE)


def saved(path: Path) -> Path:
    """Weights of the model without padding."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for parameter in parameters(PLAIN).values():
        keys = parameter.keys()
        shape = parameter.shape[1:] if len(keys) > 1 else parameter.shape
        state |= {key: torch.randn(shape, generator=generator) / 8 for key in keys}
    save_file(state, path)
    return path


def test_the_reference_is_transformers_with_resized_embeddings(tmp_path: Path) -> None:
    """Logits of all rows are equal to the bit, and those of padding are 0."""
    path, device = saved(tmp_path / "w.safetensors"), torch.device("cpu")
    precision = Precision(torch.float32, torch.float32)
    with Checkpoint.open(path, PLAIN) as plain, Checkpoint.open(path, PADDED) as padded:
        theirs = build(PLAIN, plain, precision, device)
        theirs.resize_token_embeddings(136, mean_resizing=False)
        ours = build(PADDED, padded, precision, device)
        for whole in (theirs.get_input_embeddings(), theirs.get_output_embeddings()):
            whole.weight.data[129:] = 0
        tokens = torch.arange(129)[None]
        with torch.no_grad():
            found = ours(tokens).logits
            assert torch.equal(found, theirs(tokens).logits)
    assert found.shape == (1, 129, 136)
    assert not found[..., 129:].any()
    assert found[..., :129].any()


def test_rows_behind_the_file_are_zeros_wherever_a_part_begins(tmp_path: Path) -> None:
    """A rank may hold tokens and padding, or padding alone."""
    with Checkpoint.open(saved(tmp_path / "w.safetensors"), PADDED) as checkpoint:
        whole = checkpoint.read("lm_head.weight")
        for start, stop in ((0, 68), (68, 136), (130, 136), (129, 130), (128, 129)):
            part = checkpoint.read("lm_head.weight", (slice(start, stop), slice(0, 64)))
            assert torch.equal(part, whole[start:stop])
        assert whole.shape == (136, 64)
        assert not whole[129:].any()


def test_masked_padding_counts_in_no_loss(tmp_path: Path) -> None:
    """Loss and gradients are those of the model without padding, and the head's rows of padding get none."""
    found = {}
    for model, choice in ((PLAIN, "counted"), (PADDED, "masked")):
        case = replace(CASE, model=model, training=Training(padding_logits=choice))
        with Checkpoint.open(saved(tmp_path / "w.safetensors"), model) as checkpoint:
            hf = build(model, checkpoint, Precision(torch.float32, torch.float32), torch.device("cpu"))
        recording = record_step(hf, case, BATCH, lambda step: None)
        found[choice] = recording, hf.lm_head.weight.grad
    (plain, head), (masked, padded) = found.values()
    assert torch.equal(masked.forward["loss"], plain.forward["loss"])
    assert not masked.forward["logits"][..., 129:].any()
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(masked.gradients[name][..., : gradient.shape[-1]], gradient, rtol=0, atol=1e-6)
    assert head is not None
    assert padded is not None
    torch.testing.assert_close(padded[:129], head, rtol=0, atol=1e-6)
    assert not padded[129:].any()
