"""Layer 0's input norm comes out a little too large.

As little as an epsilon that is not the checkpoint's makes it, whatever the checkpoint's is: a part in a million in fp64, and
below it four units of the precision, which is four to eight times what rounding does to a norm. A gate whose limits are too
wide sees gross faults and not this one.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import HF, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="norm",
    does="layer 0's input norm comes out a little too large",
    sources=(f"{HF}/pull/44317",),
    first="layers.0.input_norm",
)

_TOO_LARGE = {"fp64": 1e-6, "fp32": 4 * 2.0**-23, "fp16": 4 * 2.0**-10, "bf16": 4 * 2.0**-7}


def loaded(case: Case, model: Any) -> None:
    import torch

    with torch.no_grad():
        layer(model, 0).input_layernorm.weight.mul_(1 + _TOO_LARGE[case.precision])
