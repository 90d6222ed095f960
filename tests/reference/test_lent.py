"""Experts that are lent one by one: transformers computes with them what it computes with its stacked tensors, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts

from validation.case.preset import preset
from validation.reference.lent import Stack
from validation.reference.model import hf_config

MODEL = preset("tiny").model
TOKENS = 12


def computed(held: dict[str, torch.Tensor], dtype: torch.dtype, lend: bool) -> list[torch.Tensor]:
    """Output, the input's gradient, and those of weights where there are any: of stacked parameters, or of lent experts."""
    experts = DeepseekV3Experts(hf_config(MODEL))
    gradients = {name: torch.zeros_like(tensor) for name, tensor in held.items()}
    for name, tensor in held.items():
        if not lend:
            experts._parameters[name] = torch.nn.Parameter(tensor.to(dtype))
            continue
        del experts._parameters[name]
        experts.__dict__[name] = Stack(tensor, dtype, gradients[name].__setitem__)
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(TOKENS, MODEL.hidden_size, generator=generator).to(dtype).requires_grad_()
    scores = torch.rand(TOKENS, MODEL.n_routed_experts, generator=generator)
    weights, chosen = scores.topk(MODEL.num_experts_per_tok)
    output = experts(hidden, chosen, weights.to(dtype))
    output.backward(torch.randn(output.shape, generator=generator).to(dtype))
    assert hidden.grad is not None
    if not lend:
        gradients = {name: parameter.grad for name, parameter in experts.named_parameters() if parameter.grad is not None}
    return [output.detach(), hidden.grad, *gradients.values()]


def stacked(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"gate_up_proj": (16, 64, 64), "down_proj": (16, 64, 32)}
    return {name: torch.randn(shape, generator=generator).to(dtype) / 8 for name, shape in shapes.items()}


def test_a_lent_expert_is_the_stacked_one() -> None:
    """Output and every gradient, in bf16."""
    held = stacked(torch.bfloat16)
    pairs = zip(computed(held, torch.bfloat16, lend=True), computed(held, torch.bfloat16, lend=False), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("held_in", "wide"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float64)])
def test_a_truth_has_them_in_its_own_dtype(held_in: torch.dtype, wide: torch.dtype) -> None:
    """Output and the input's gradient, from weights that are held in a narrower one."""
    held = stacked(held_in)
    found, expected = computed(held, wide, lend=True)[:2], computed(held, wide, lend=False)[:2]
    assert found[0].dtype == wide
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_lent_expert_is_for_linear_products_alone() -> None:
    """Whatever else transformers may come to do with it is no silent mistake."""
    lent = Stack(stacked(torch.bfloat16)["down_proj"], torch.float32)[torch.tensor(2)]
    with pytest.raises(TypeError, match="linear products alone"):
        functional.relu(lent)  # type: ignore[arg-type]
