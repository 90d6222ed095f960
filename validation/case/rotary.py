"""Rotary numbers that Megatron-Core and transformers read otherwise. No torch.

Both know m(x) = 1 + 0.1 x log(factor), for a factor above 1. Megatron-Core multiplies cos and sin by m(mscale) /
m(mscale_all_dim), whatever the two are. It multiplies the softmax's scale by m(mscale_all_dim) squared, without yarn, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from validation.case.annotation import Value
from validation.case.model import Model


def mscale(model: Model) -> float:
    """The mscale with which megatron-core scales cos and sin as transformers does.

    To transformers an mscale or an mscale_all_dim that is 0 or not there is none, and it multiplies by m(1): the ratio that
    1 + y + 0.1 y log(factor) makes where y is mscale_all_dim.
    """
    if model.mscale and model.mscale_all_dim:
        return model.mscale
    return 1.0 + model.mscale_all_dim * (1.0 + 0.1 * math.log(max(1.0, model.rope_factor)))


def unlike(numbers: Mapping[str, Value]) -> Iterator[str]:
    """A sentence on scales that Megatron-Core trains with and transformers never computes. `numbers` are a `Model`'s."""
    factor, scale, of_all = (numbers.get(name) for name in ("rope_factor", "mscale", "mscale_all_dim"))
    if not (isinstance(factor, (int, float)) and factor > 1):
        return
    if numbers.get("rope_type") == "default":
        if of_all:
            yield (
                f"without yarn Megatron-Core multiplies the softmax's scale by what rotary_scaling_factor {factor} and "
                f"mscale_all_dim {of_all} make of it, and transformers does not; give --rotary-scaling-factor 1"
            )
    elif scale != 1 and not of_all:
        yield f"mscale is {scale} and mscale_all_dim 0, with which transformers takes an mscale of 1; give --mscale-all-dim"
