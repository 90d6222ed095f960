"""What names tell: the prefixes of tensors, why a folder does not fit, and which of its files is not there. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection

from validation.case import tree
from validation.case.strangers import shown

_TEXT = ("language_model.", "model.language_model.")
WRAPPED = ("module.", "_orig_mod.")
"""What a wrapped model puts before each of its names, DistributedDataParallel and torch.compile."""
_BASE = ("embed_tokens.", "layers.", "norm.")
"""How names begin that a model without its head has saved."""
_TWICE = ("model.model.", "model.lm_head.")
VISION = ("vision_tower.", "mm_projector.", "model.vision_tower.", "model.mm_projector.", "visual.", "model.visual.")
"""What a model of text and pictures has beside its model of text."""
GATE_AND_UP = "gate_up_proj"
_FUSED = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|gate_proj|up_proj|down_proj)(\.weight)?$")
_OF_MTP = ("enorm.weight", "hnorm.weight", "eh_proj.weight")
PACKED = "_packed"
"""Behind the name of a weight whose elements share words of 32 bits (compressed-tensors)."""
_NUMBERED = re.compile(r"(.+)-(\d{1,9})-of-(\d{1,9})(\.safetensors)")
_MOST_FILES = 1 << 16


def unwrapped(key: str) -> str:
    """A key without the prefixes of wrapped models, however many there are."""
    while key.startswith(WRAPPED):
        key = key.partition(".")[2]
    return key


def canonical(key: str) -> str:
    """A key as DeepSeek-V3 has it: without prefixes of wrapped models and of models with pictures, `model.` once."""
    key = unwrapped(key)
    key = f"model.{key.removeprefix(_TEXT[1])}" if key.startswith(_TEXT[1]) else key.removeprefix(_TEXT[0])
    key = key.removeprefix("model.") if key.startswith(_TWICE) else key
    return f"model.{key}" if key.startswith(_BASE) else key


def fused_experts(key: str) -> tuple[str, str] | None:
    """What a tensor of all experts of a layer is: the key up to `experts`, and which matrix; None for any other key.

    transformers 5 holds gate and up in one. Others stack each matrix by itself.
    """
    found = _FUSED.match(key)
    return None if found is None else (found[1], found[2])


def absent_file(names: Collection[str]) -> str | None:
    """A file that is not there although others are `model-00001-of-00003.safetensors`, which says how many there are."""
    there = set(names)
    for name in sorted(there):
        numbered = _NUMBERED.fullmatch(name)
        if numbered is not None:
            start, number, count, end = numbered.groups()
            places = range(1, min(int(count), _MOST_FILES) + 1)
            wanted = (f"{start}-{place:0{len(number)}d}-of-{count}{end}" for place in places)
            absent = next((one for one in wanted if one not in there), None)
            if absent is not None:
                return absent
    return None


def hint(keys: Collection[str], missing: Collection[str]) -> str:
    """What the names of a folder tell of keys that are missing: the end of a sentence, empty if they tell nothing."""
    if any(key.endswith(PACKED) for key in keys):
        return f"its weights are packed; `{tree.VALIDATION} convert --to-hf --load DIR --save OUT` makes a folder in bf16 of it"
    if any(unwrapped(key).startswith("decoder.layers.") for key in keys):
        return "its keys are Megatron's; it is no HuggingFace folder"
    if any(fused_experts(key) for key in keys):
        return "its experts are fused, in another shape than [experts, rows, columns]"
    if set(missing) == {"lm_head.weight"}:
        return "if the head is the embedding, tie_word_embeddings in config.json must be true"
    before = next((key.removesuffix(first) for first in list(missing)[:1] for key in keys if key.endswith(f".{first}")), "")
    if before:
        return f"its keys begin with `{shown(before)}`; save the model without what wraps it"
    if any(key.endswith(_OF_MTP) for key in missing):
        return "config.json names an MTP layer that the files do not have; without +mtp the folder can be compared"
    return ""
