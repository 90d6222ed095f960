"""What `local` puts in the place of Transformer Engine's modules takes what it is given, or refuses it."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType

from validation.candidate.modules import CoreAttention, RMSNorm
from validation.candidate.spec import block_spec
from validation.case.errors import UsageError
from validation.reference.batch import other_documents

LENGTH, BATCH, HEADS, DIM = 6, 2, 3, 4
FORBIDDEN = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)[None, None]


def attention(config: dict[str, Any] | None = None, **given: Any) -> CoreAttention:
    """Core attention of one rank, training, as multi-latent attention builds it."""
    groups = SimpleNamespace(cp=SimpleNamespace(size=lambda: 1, rank=lambda: 0))
    made: Any = SimpleNamespace(**{"attention_dropout": 0.0, **(config or {})})
    return CoreAttention(made, softmax_scale=0.5, pg_collection=groups, layer_number=1, **given)


def packing(ends: list[int], **changes: Any) -> SimpleNamespace:
    """Where packed documents begin and end, as megatron-core says it."""
    found = torch.tensor(ends, dtype=torch.int32)
    given = {"qkv_format": "thd", "cu_seqlens_q": found, "cu_seqlens_kv": found, "cu_seqlens_q_padded": None, "max_seqlen_q": 3}
    return SimpleNamespace(**{**given, **changes})


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value, [sequence, batch, heads, dim]."""
    query, key, value = torch.randn(3, LENGTH, BATCH, HEADS, DIM, generator=torch.Generator().manual_seed(0)).double()
    return query, key, value


def test_it_attends_to_what_the_causal_mask_allows() -> None:
    query, key, value = inputs()
    scores = torch.einsum("qbhd,kbhd->bhqk", query, key) * 0.5
    weights = scores.masked_fill(FORBIDDEN, float("-inf")).softmax(-1)
    wanted = torch.einsum("bhqk,kbhd->qbhd", weights, value).flatten(2)
    for mask in (FORBIDDEN, None):
        torch.testing.assert_close(attention()(query, key, value, mask), wanted, rtol=1e-12, atol=1e-12)


def test_a_mask_that_keeps_documents_apart_is_taken() -> None:
    """Each document is attended to as if it were alone, in each sequence its own."""
    query, key, value = inputs()
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 2]])
    found = attention()(query, key, value, FORBIDDEN | other_documents(documents))
    for row, start, stop in ((0, 0, 3), (0, 3, 6), (1, 0, 1), (1, 1, 5), (1, 5, 6)):
        alone = attention()(*(tensor[start:stop, row : row + 1] for tensor in (query, key, value)))
        torch.testing.assert_close(found[start:stop, row : row + 1], alone, rtol=1e-12, atol=1e-12)


def test_padding_behind_a_packed_document_is_none_of_it() -> None:
    """What the document's tokens attend to is what they attend to alone, wherever the documents begin."""
    query, key, value = (tensor[:, 0] for tensor in inputs())
    told = packing([0, 2, 4], cu_seqlens_q_padded=torch.tensor([0, 3, 6]), cu_seqlens_kv_padded=torch.tensor([0, 3, 6]))
    found = attention()(query, key, value, packed_seq_params=told)
    for start in (0, 3):
        alone = attention()(*(tensor[start : start + 2, None] for tensor in (query, key, value)))
        torch.testing.assert_close(found[start : start + 2], alone[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "mask",
    [FORBIDDEN & False, FORBIDDEN.tril(3), FORBIDDEN[..., :3, :3], FORBIDDEN[..., :1], FORBIDDEN.double()],
    ids=["forbids nothing", "a window", "of a part", "broadcast", "of numbers"],
)
def test_a_mask_that_lets_a_position_see_later_ones_is_refused(mask: torch.Tensor) -> None:
    """Ignored, it would be a model that is computed otherwise and compares equal."""
    with pytest.raises(
        ValueError, match=r"the mask of shape .* allows what the causal one of 6 positions forbids; local-stock"
    ):
        attention()(*inputs(), mask)


def test_packed_documents_are_attended_to_as_if_each_were_alone() -> None:
    """One of a single token among them."""
    query, key, value = (tensor[:, 0] for tensor in inputs())
    found = attention()(query, key, value, packed_seq_params=packing([0, 1, 4, 6]))
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        alone = attention()(*(tensor[start:stop, None] for tensor in (query, key, value)))
        torch.testing.assert_close(found[start:stop], alone[:, 0], rtol=1e-12, atol=1e-12)


def test_a_mask_that_leaves_a_position_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the mask of shape .* leaves a position nothing to attend to"):
        attention()(*inputs(), FORBIDDEN | True)


def test_another_kind_of_mask_is_refused_wherever_it_is_named() -> None:
    with pytest.raises(ValueError, match="the mask's type is no_mask"):
        attention()(*inputs(), FORBIDDEN, attn_mask_type=AttnMaskType.no_mask)
    with pytest.raises(ValueError, match="the mask's type is padding"):
        attention(attn_mask_type=AttnMaskType.padding)(*inputs(), FORBIDDEN)


def test_dropout_is_refused_while_training() -> None:
    drops = attention({"attention_dropout": 0.5})
    with pytest.raises(ValueError, match=re.escape("drops nothing, and attention_dropout is 0.5")):
        drops(*inputs(), FORBIDDEN)
    drops.eval()(*inputs(), FORBIDDEN)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"attention_bias": torch.zeros(())}, "a bias is given"),
        ({"packed_seq_params": packing([0, 3, 6], qkv_format="sbhd")}, "packed sequences of the format sbhd"),
        (
            {"packed_seq_params": packing([0, 3, 5], cu_seqlens_q_padded=torch.tensor([0, 2, 6]))},
            r"a packed sequence of 6 tokens end at \[0, 2, 6\]",
        ),
        ({"packed_seq_params": packing([0, 3, 6], local_cp_size=2)}, "of the format thd have local_cp_size"),
        ({"packed_seq_params": packing([0, 3, 5])}, r"a packed sequence of 6 tokens end at \[0, 3, 5\]"),
        ({"packed_seq_params": packing([0, 3, 6], cu_seqlens_kv=torch.tensor([0, 2, 6]))}, "tokens end at"),
        ({"packed_seq_params": packing([0, 3, 6]), "attn_mask_type": AttnMaskType.no_mask}, "the mask's type is no_mask"),
    ],
    ids=["bias", "format", "padded", "several ranks", "short", "other keys", "no mask"],
)
def test_what_else_may_be_asked_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        attention()(*inputs(), FORBIDDEN, **asked)


@pytest.mark.parametrize(
    ("name", "value"), [("window_size", (4, 0)), ("softmax_type", "off-by-one"), ("apply_query_key_layer_scaling", True)]
)
def test_what_a_configuration_asks_of_core_attention_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {re.escape(str(value))}"):
        attention({name: value})


def norms(normalization: str = "RMSNorm", *, less: bool = False) -> Any:
    """A configuration as far as norms read it."""
    return SimpleNamespace(
        params_dtype=torch.float64, sequence_parallel=False, normalization=normalization, layernorm_zero_centered_gamma=less
    )


def test_a_norm_is_the_one_that_is_asked_for() -> None:
    """A weight that is stored less 1 counts 1 more; no other norm is made in silence."""
    given = torch.randn(1, 4, dtype=torch.float64)
    plain, less = RMSNorm(norms(), 4), RMSNorm(norms(less=True), 4)
    torch.testing.assert_close(less(given), 2 * plain(given), rtol=1e-12, atol=0.0)
    with pytest.raises(ValueError, match="normalization is LayerNorm; te has"):
        RMSNorm(norms("LayerNorm"), 4)


def test_a_norm_has_the_epsilon_that_it_is_given() -> None:
    config = norms()
    for eps in (1e-2, 1e-6):
        given = torch.full((1, 4), 0.1, dtype=torch.float64)
        norm = RMSNorm(config, 4, eps=eps)
        torch.nn.init.ones_(norm.weight)
        torch.testing.assert_close(norm(given), given / (0.01 + eps) ** 0.5, rtol=1e-12, atol=0.0)


def test_a_spec_that_returns_none_is_wrong_usage() -> None:
    """As one that cannot be called is, and not an error somewhere inside megatron-core."""
    with pytest.raises(UsageError, match="no_specs:nothing: it returns None, and no TransformerBlockSubmodules; give package"):
        block_spec("tests.checks.no_specs:nothing", None, None)
