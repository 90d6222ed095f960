"""Matrix products run in TF32.

A GPU rounds the inputs of a product to ten bits of mantissa; here they are rounded before it.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="matrix products run in TF32",
    sources=("https://pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices",),
    first="layers.0.attention.q_latent",
    precision="fp32",
    absent=(("bf16", "TF32 is of products in fp32"),),
)


def loaded(case: Case, model: Any) -> None:
    import torch

    def short(tensor: Any) -> Any:
        whole = tensor.detach().view(torch.int32)
        return tensor + (((whole + 0x1000) & ~0x1FFF).view(torch.float32) - tensor.detach())

    for found in layers(model):
        for name, module in found.named_modules():
            if "linear_" in name.rpartition(".")[2]:
                module.weight.data = short(module.weight.data)
                module.register_forward_pre_hook(lambda module, given: (short(given[0]), *given[1:]))
