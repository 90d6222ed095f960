"""Transformer Engine's attention over packed documents beside the same in fp32, by the width of the values. Needs a GPU.

    python benchmarks/packed_attention.py [--unfused]

Queries and keys of multi-latent attention are 192 wide and values 128. From 0.18 on Megatron-Core widens the values of packed
documents to 192 with zeros, which changes no number, and cuDNN takes another kernel. A line for each width: relative errors of
the output and of the gradients of queries, keys and values (norm of the difference over the norm). In bf16 they are some 0.003.
The last line names the cuDNN that computed: Transformer Engine may load another one than torch.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import transformer_engine
import transformer_engine.pytorch as te
from torch import Tensor
from torch.nn import functional

HEADS, QUERY, VALUE = 16, 192, 128
_NAMES = ("output", "dq", "dk", "dv")
DOCUMENTS = ((128,), (64, 64), (40, 1, 59, 28), (1024,), (300, 724))
"""Lengths of the documents of a sequence, in tokens."""


def errors(lengths: Sequence[int], width: int) -> list[float]:
    """Relative errors of output, query, key and value gradient, with values widened to `width`."""
    torch.manual_seed(0)
    ends = list(itertools.accumulate(lengths, initial=0))
    shapes = ((ends[-1], HEADS, QUERY), (ends[-1], HEADS, QUERY), (ends[-1], HEADS, VALUE))
    given = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    ahead = torch.randn(shapes[-1], device="cuda", dtype=torch.bfloat16)
    attention = te.DotProductAttention(
        HEADS, (QUERY, width), attention_dropout=0.0, qkv_format="thd", attn_mask_type="padding_causal"
    )
    query, key, value = given
    where = torch.tensor(ends, dtype=torch.int32, device="cuda")
    output = attention(
        *(query, key, functional.pad(value, (0, width - VALUE))),
        cu_seqlens_q=where,
        cu_seqlens_kv=where,
        max_seqlen_q=max(lengths),
        max_seqlen_kv=max(lengths),
    )
    output = output.view(ends[-1], HEADS, width)[..., :VALUE]
    output.backward(ahead)
    exact = [tensor.detach().float().requires_grad_() for tensor in given]
    expected = torch.cat([_attended(*(tensor[a:b] for tensor in exact)) for a, b in itertools.pairwise(ends)])
    expected.backward(ahead.float())
    pairs = [(output, expected), *((ours.grad, theirs.grad) for ours, theirs in zip(given, exact, strict=True))]
    return [_relative(found, wanted) for found, wanted in pairs if found is not None and wanted is not None]


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of one document, [tokens, heads, width], in the precision of its arguments."""
    scores = torch.einsum("qhd,khd->hqk", query, key) * QUERY**-0.5
    hidden = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), value)


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


def libraries() -> list[str]:
    """The files of cuDNN that this process has loaded."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[-1] for line in lines if "libcudnn.so" in line})


def main() -> None:
    """A line for each width and each way to cut a sequence into documents."""
    parser = argparse.ArgumentParser(description="packed attention of Transformer Engine against fp32")
    parser.add_argument("--unfused", action="store_true", help="its own attention in place of cuDNN's")
    if parser.parse_args().unfused:
        os.environ["NVTE_FUSED_ATTN"] = os.environ["NVTE_FLASH_ATTN"] = "0"
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = str(int(not deterministic))
        for lengths, width in itertools.product(DOCUMENTS, (VALUE, QUERY)):
            found = " ".join(f"{name} {error:.4f}" for name, error in zip(_NAMES, errors(lengths, width), strict=True))
            kind = "deterministic" if deterministic else "any order"
            print(f"{kind}, documents {list(lengths)}, values {width}: {found}", flush=True)
    print(
        torch.cuda.get_device_name(),
        "torch",
        torch.__version__,
        "Transformer Engine",
        transformer_engine.__version__,
        *libraries(),
    )


if __name__ == "__main__":
    main()
