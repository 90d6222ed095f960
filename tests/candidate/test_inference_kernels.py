"""The stand-ins for kernels of dynamic inference attend as attention over whole sequences does, through a table of blocks."""

from __future__ import annotations

import pytest
import torch

import tests.core  # noqa: F401 - before megatron.core
from validation.inference.kernels import decode, prefill

BLOCK, HEADS, DIM = 4, 2, 3
LENGTHS = (9, 1, 4)
"""Tokens of each request: of three blocks, of a part of one, of a whole one."""


def cached(values: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The requests' tokens in blocks that lie in no order, and the table of whose block is which; the rest is no number."""
    blocks = torch.full((8, BLOCK, *values[0].shape[1:]), float("nan"), dtype=torch.float64)
    table, free = torch.full((len(values), 3), -1), [5, 0, 7, 2, 4]
    for request, value in enumerate(values):
        for at, part in enumerate(value.split(BLOCK)):
            table[request, at] = free.pop()
            blocks[table[request, at], : len(part)] = part
    return blocks, table


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Torch's own, of the last positions of a sequence: [tokens, heads, dim]."""
    q, k, v = (tensor.transpose(0, 1) for tensor in (query, key, value))
    mask = torch.ones(len(key), len(key), dtype=torch.bool).tril()[-len(query) :]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3).transpose(0, 1)


@pytest.mark.parametrize("asked", [LENGTHS, (2, 1, 3)], ids=["whole prompts", "behind what is cached"])
def test_prefill_attends_to_all_before_it_in_its_own_request(asked: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    keys = [torch.randn(length, HEADS, DIM, dtype=torch.float64) for length in LENGTHS]
    values = [torch.randn(length, HEADS, DIM, dtype=torch.float64) for length in LENGTHS]
    queries = [torch.randn(count, HEADS, DIM, dtype=torch.float64) for count in asked]
    (cache, table), (other, _) = cached(keys), cached(values)
    ends = [torch.tensor([0, *counts]).cumsum(0) for counts in (asked, LENGTHS)]
    found = prefill(torch.cat(queries), cache, other, *ends, 0, 0, softmax_scale=0.3, causal=True, block_table=table)
    wanted = torch.cat([attended(*one) for one in zip(queries, keys, values, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-15)


def test_decode_attends_to_the_latents_of_its_own_request_whose_first_part_is_the_value() -> None:
    torch.manual_seed(1)
    latents = [torch.randn(length, 1, DIM, dtype=torch.float64) for length in LENGTHS]
    query = torch.randn(4, 1, HEADS, DIM, dtype=torch.float64)
    cache, table = cached(latents)
    lengths = torch.tensor([*LENGTHS, 0])
    found, _ = decode(query, cache, torch.cat([table, table[:1]]), lengths, 2, None, None, softmax_scale=0.3, causal=True)
    for request, latent in enumerate(latents):
        key = latent.expand(-1, HEADS, -1)
        torch.testing.assert_close(found[request], attended(query[request], key, key[..., :2]), rtol=0, atol=1e-15)
    assert not found[3].any(), "a place without a request computes nothing"
