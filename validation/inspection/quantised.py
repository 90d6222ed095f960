"""How the weights of a folder are quantised, by config.json and by the names and dtypes of its tensors. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from validation.case.key_names import PACKED
from validation.case.quantisation import FP8, SCALE_DTYPES, refusal
from validation.case.strangers import shown
from validation.inspection.stored import Stored

SCALE = "_scale_inv"
WEIGHTS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class Quantised:
    """What a reader is told, and whether `convert` reads it and `run` reads it as it is."""

    said: str
    converts: bool
    runs: bool


PLAIN = Quantised("none", converts=True, runs=True)


def quantised(config: Mapping[str, Any], found: Stored) -> Quantised:
    """How the folder is quantised. What `convert` makes of it is decided by its own rules (validation.case.quantisation)."""
    how = config.get("quantization_config")
    method = how.get("quant_method") if isinstance(how, dict) else None
    readable = refusal(how) is None
    kinds = {tensor.dtype for key, tensor in found.tensors.items() if not key.endswith((SCALE, "_scale", "_shape"))}
    scales = {tensor.dtype for key, tensor in found.tensors.items() if key.endswith(SCALE)}
    if any(key.endswith(PACKED) for key in found.tensors):
        by = shown(method or "compressed-tensors")
        return Quantised(f"int4, packed into words of 32 bits ({by})", readable, runs=False)
    eight_bits = {kind for kind in kinds if kind.startswith("F8")}
    if eight_bits:
        block = how.get("weight_block_size") if isinstance(how, dict) else None
        size = " x ".join(map(str, block)) if isinstance(block, list) else "128 x 128"
        converts = readable and eight_bits == {FP8} and bool(scales) and scales <= set(SCALE_DTYPES)
        return Quantised(f"fp8 in blocks of {size}, scales in {', '.join(sorted(scales)) or 'none'}", converts, runs=False)
    strange = sorted(kinds - WEIGHTS)
    if strange:
        return Quantised(f"tensors in {', '.join(map(shown, strange))} ({shown(method)})", converts=False, runs=False)
    if how is not None:
        return Quantised(f"config.json says {shown(method)}, and the weights are plain", readable, runs=True)
    return PLAIN
