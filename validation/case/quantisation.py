"""Which quantisation of published weights can be read, by config.json alone. No torch."""

from __future__ import annotations

import json
from typing import Any

from validation.case.strangers import shown

FP8 = "F8_E4M3"
SCALE_DTYPES = ("F32", "BF16", "F8_E8M0")
"""What scales are stored in: DeepSeek-V3's numbers, rounded ones, and powers of two."""
BLOCK = (128, 128)
"""The blocks that share a scale, where config.json does not say."""
_PACKED = "pack-quantized"


def block_size(how: Any) -> tuple[int, int] | None:
    """The blocks of a `quantization_config`; None if Plumbline has no formula for it."""
    if how is None:
        return BLOCK
    known = how if isinstance(how, dict) else {}
    if known.get("quant_method") == "compressed-tensors" and known.get("format", _PACKED) == _PACKED:
        return BLOCK if _of_four_bits(known.get("config_groups")) else None
    size = known.get("weight_block_size", list(BLOCK))
    sound = isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side <= 1 << 20 for side in size)
    if not sound or known.get("quant_method") != "fp8" or known.get("fmt", "e4m3") != "e4m3":
        return None
    return size[0], size[1]


def _of_four_bits(groups: Any) -> bool:
    """Whether every group of packed weights that says it is symmetric whole numbers of 4 bits, in their own order."""
    each = list(groups.values()) if isinstance(groups, dict) else []
    weights = [group.get("weights") for group in each if isinstance(group, dict)]
    wanted = {"num_bits": 4, "type": "int", "symmetric": True, "actorder": None}
    given = [one for one in weights if isinstance(one, dict)]
    return len(given) == len(each) and all(one.get(name, value) == value for one in given for name, value in wanted.items())


def refusal(how: Any) -> str | None:
    """What is wrong with a `quantization_config`; None for one that can be read."""
    if block_size(how) is not None:
        return None
    return (
        f"quantization_config in config.json is {_said(how)}; only fp8 in e4m3 with a scale for each block "
        "(weight_block_size), as DeepSeek-V3 is published, and pack-quantized in symmetric 4 bits, as Kimi-K2.5 is, can be read"
    )


def _said(how: Any) -> str:
    try:
        return shown(json.dumps(how))
    except RecursionError:
        return shown(how)
