"""The names that checkpoints give the same tensors: prefixes, and what names tell of a folder that does not fit. No torch."""

from __future__ import annotations

from collections.abc import Collection

from validation.case import tree

_TEXT = ("language_model.", "model.language_model.")
WRAPPED = "module."
"""What a wrapped model puts before each of its names."""
VISION = ("vision_tower.", "mm_projector.", "model.vision_tower.", "model.mm_projector.", "visual.", "model.visual.")
"""What a model of text and pictures has beside its model of text."""
FUSED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
"""A layer's experts in two tensors, as transformers 5 holds them."""
_OF_MTP = ("enorm.weight", "hnorm.weight", "eh_proj.weight")
PACKED = "_packed"
"""Behind the name of a weight whose elements share words of 32 bits (compressed-tensors)."""


def canonical(key: str) -> str:
    """A key as DeepSeek-V3 has it: without prefixes of wrapped models and of models with pictures."""
    key = key.removeprefix(WRAPPED)
    if key.startswith(_TEXT[0]):
        return key.removeprefix(_TEXT[0])
    return f"model.{key.removeprefix(_TEXT[1])}" if key.startswith(_TEXT[1]) else key


def hint(keys: Collection[str], missing: Collection[str]) -> str:
    """What the names of a folder tell of keys that are missing: the end of a sentence, empty if they tell nothing."""
    if any(key.endswith(PACKED) for key in keys):
        return f"its weights are packed; `{tree.VALIDATION} convert --to-hf --load DIR --save OUT` makes a folder in bf16 of it"
    if any(key.startswith("decoder.layers.") for key in keys):
        return "its keys are Megatron's; it is no HuggingFace folder"
    if any(key.endswith(FUSED) for key in keys):
        return "its experts are fused (transformers 5)"
    if set(missing) == {"lm_head.weight"}:
        return "if the head is the embedding, tie_word_embeddings in config.json must be true"
    if any(key.endswith(_OF_MTP) for key in missing):
        return "config.json names an MTP layer that the files do not have; without +mtp the folder can be compared"
    return ""
