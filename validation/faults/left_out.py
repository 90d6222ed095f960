"""Faults that were looked at and are not in the catalogue, each with the reason."""

from __future__ import annotations

LEFT_OUT = {
    "A09": "megatron-core's fused rotary kernel with heads that fill no block: a Triton kernel, which needs a GPU",
    "A10": "unpadded cu_seqlens for rotary positions: not made; +packed-padded compares data in which it would show",
    "R12": "in the catalogue as D01",
    "R20": "a padding mask that is broadcast wrongly: 0.16.1 to 0.19.2 have the bug, which platform.py mends; the kind is B06",
    "T19": "a padding mask cut over another group than the hidden states: with padding alone; the kinds are B08 and T11",
    "T20": "cross-attention over the global tensor-parallel group: the model has none; the kind is T11",
    "T21": "image embeddings cut over the global tensor-parallel group: the model has none; the kind is T11",
    "T22": "the output norm of a gated delta net without the sum over ranks: the model has none; the kind is T18",
    "T23": "the output of Megatron-Bridge's Wan model gathered as a part of the loss: not run; the kind is T02",
    "E09": "expert gradients that Megatron-FSDP does not scale: not one of the wrappers that are run; the kind is E02",
    "P04": "dense layers told by their number within the stage: the model cannot be loaded, which nobody misses",
    "P08": "scores scaled by the layer's number within the stage: it cancels but in fp16",
    "G07": "the embedding's gradient summed over stages before it is over data-parallel ranks: two sums in either"
    " order are the same, unless the distributed optimizer reduces while the backward pass runs, which is off",
    "G10": "the router's weight gradient cast to bfloat16 before it is added up: what megatron-core does by design",
    "W10": "in the catalogue as R09",
    "W11": "experts renamed wrongly by an export: nothing that a forward pass runs on",
    "D03": "in the catalogue as R11",
    "D10": "clipping of mixed dtypes in one launch: no such path in 0.16.1 without Transformer Engine",
}
"""By the id under which a list of upstream bugs has them; ids follow it, as far as that goes."""
