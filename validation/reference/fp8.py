"""What Transformer Engine's fp8 does to the HuggingFace model: its products take what they are given in eight bits.

Inputs, weights and gradients are quantised as a recipe says and multiplied in float32, whose result is rounded to the model's
dtype, as the tensor cores' is. That makes the floor of fp8; the truth knows nothing of it. The rules are those of Transformer
Engine 2.11 (transformer_engine/pytorch/quantization.py, common/recipe/recipe_common.cuh); tests/gpu compares them with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from validation.case.case import Case
from validation.case.fp8 import BLOCK
from validation.case.plural import many

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
EXPERTS_IMPLEMENTATION = "plumbline_fp8"

Both = tuple[torch.Tensor, torch.Tensor]


def quantised(tensor: torch.Tensor, dtype: torch.dtype, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """What is left of a tensor that is scaled, cast to fp8 and scaled back, in float32. What is too large saturates."""
    largest, scales = torch.finfo(dtype).max, torch.as_tensor(scale, dtype=torch.float32, device=tensor.device)
    held = (tensor.float() * scales).clamp(-largest, largest).to(dtype)
    return held.float() * scales.reciprocal()


def delayed_scale(tensor: torch.Tensor, dtype: torch.dtype, before: float = 1.0) -> float:
    """The scale that delayed scaling takes from a tensor for the next one; where it says nothing, the one `before`."""
    amax = float(tensor.abs().max()) if tensor.numel() else 0.0
    return torch.finfo(dtype).max / amax if 0 < amax < float("inf") else before


def block_scale(amax: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scales of blocks by their largest magnitudes: the power of two that leaves each within fp8, 1 where there is none."""
    scale = torch.finfo(dtype).max / amax.float()
    scale = scale.clamp(max=torch.finfo(torch.bfloat16).max)
    # Without the mantissa's bits a positive number is the power of two below it.
    power = (scale.view(torch.int32) & ~0x7FFFFF).view(torch.float32)
    return torch.where((amax > 0) & amax.isfinite(), power, torch.ones_like(power))


def in_blocks(tensor: torch.Tensor, dtype: torch.dtype, rows: int, columns: int) -> torch.Tensor:
    """A matrix whose blocks of so many rows and columns have a scale each, the last ones being what is left of it."""
    height, width = tensor.shape
    padded = functional.pad(tensor.float(), (0, -width % columns, 0, -height % rows))
    blocks = padded.view(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    scales = block_scale(blocks.abs().amax((1, 3), keepdim=True), dtype)
    return quantised(blocks, dtype, scales).view(padded.shape)[:height, :width]


class Recipe(Protocol):
    """How what a product is given is quantised.

    `parts` says which micro-batch each row is of, where that matters. `of` says which product it is, to a recipe that takes
    something from one step into the next.
    """

    @property
    def name(self) -> str:
        """As reports write it."""

    def begin(self) -> Recipe:
        """The same for a run of its own, which has seen nothing yet."""

    def parts(self, rows: int, device: torch.device) -> torch.Tensor | None:
        """The micro-batch of each row of so many, of whole sequences one after the other."""

    def given(self, tensor: torch.Tensor, parts: torch.Tensor | None, of: Hashable = None) -> Both:
        """An input, [rows, in], for the output and for the weight's gradient."""

    def weight(self, tensor: torch.Tensor, of: Hashable = None) -> torch.Tensor:
        """A weight, [out, in], for the output and for the input's gradient."""

    def gradient(self, tensor: torch.Tensor, parts: torch.Tensor | None, of: Hashable = None) -> Both:
        """An output's gradient, [rows, out], for the input's gradient and for the weight's."""


@dataclass(frozen=True)
class Delayed:
    """One scale a tensor: 1 in the first micro-batch, which has no history, then by the largest magnitude of the one before.

    megatron-core quantises weights in the first micro-batch of a step and keeps them for the others. `left` has the scale that
    the last micro-batch so far has left for the next one, by product and role: a further step begins with it.
    """

    micro_batches: int = 1
    left: dict[tuple[Hashable, str], float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """As reports write it."""
        return "delayed scaling, " + (
            f"{many(self.micro_batches, 'micro-batch', 'micro-batches')}" if self.micro_batches > 1 else "one micro-batch"
        )

    def begin(self) -> Delayed:
        """Scales of 1 for every product."""
        return replace(self, left={})

    def parts(self, rows: int, device: torch.device) -> torch.Tensor | None:
        """Equal shares."""
        if self.micro_batches == 1:
            return None
        return torch.arange(self.micro_batches, device=device).repeat_interleave(rows // self.micro_batches)

    def given(self, tensor: torch.Tensor, parts: torch.Tensor | None, of: Hashable = None) -> Both:
        """The same for both."""
        found = quantised(tensor, E4M3, self._scales(tensor, E4M3, parts, (of, "given")))
        return found, found

    def weight(self, tensor: torch.Tensor, of: Hashable = None) -> torch.Tensor:
        """With a scale of 1 in the first step, and by the weight of the step before in the others."""
        return quantised(tensor, E4M3, self._scales(tensor, E4M3, None, (of, "weight")))

    def gradient(self, tensor: torch.Tensor, parts: torch.Tensor | None, of: Hashable = None) -> Both:
        """The same for both, with more range and less precision."""
        found = quantised(tensor, E5M2, self._scales(tensor, E5M2, parts, (of, "gradient")))
        return found, found

    def _scales(
        self, tensor: torch.Tensor, dtype: torch.dtype, parts: torch.Tensor | None, role: tuple[Hashable, str]
    ) -> torch.Tensor:
        """Those of each row, [rows, 1]; notes what the last micro-batch leaves."""
        scale = self.left.get(role, 1.0)
        scales = torch.full((len(tensor), 1), scale, device=tensor.device)
        if parts is None:
            self.left[role] = delayed_scale(tensor, dtype, scale)
            return scales
        for part in range(self.micro_batches):
            rows = parts == part
            scales[rows] = scale
            scale = delayed_scale(tensor[rows], dtype, scale)
        self.left[role] = scale
        return scales


@dataclass(frozen=True)
class Blockwise:
    """A scale for each 128 elements along what a product adds up, and for each 128 x 128 of a weight; all in e4m3."""

    @property
    def name(self) -> str:
        """As reports write it."""
        return "block scaling"

    def begin(self) -> Blockwise:
        """The same: nothing is kept."""
        return self

    def parts(self, rows: int, device: torch.device) -> torch.Tensor | None:
        """Nothing is kept from one micro-batch for the next."""
        return None

    def given(self, tensor: torch.Tensor, parts: torch.Tensor | None, of: Hashable = None) -> Both:
        """Along a row for the output, along a column for the weight's gradient."""
        return in_blocks(tensor, E4M3, 1, BLOCK), in_blocks(tensor, E4M3, BLOCK, 1)

    def weight(self, tensor: torch.Tensor, of: Hashable = None) -> torch.Tensor:
        """In squares, which are the same for both."""
        return in_blocks(tensor, E4M3, BLOCK, BLOCK)

    gradient = given


def recipes(case: Case) -> tuple[Recipe, ...]:
    """What the floor is measured with; none where nothing is in fp8.

    A reference serves every layout, and how many micro-batches a rank has is the layout's: one is a scale of 1 throughout, and
    a sequence each is what differs from it most.
    """
    if case.training.fp8 == "delayed":
        return tuple(Delayed(count) for count in sorted({1, case.batch_size}))
    return (Blockwise(),) if case.training.fp8 == "blockwise" else ()


class _Product(torch.autograd.Function):
    """`functional.linear` of rows, [rows, in], with everything that it multiplies quantised."""

    @staticmethod
    def forward(
        ctx: Any, tensor: torch.Tensor, weight: torch.Tensor, recipe: Recipe, parts: torch.Tensor | None, of: Hashable
    ) -> torch.Tensor:
        for_output, for_weight = recipe.given(tensor, parts, of)
        held = recipe.weight(weight, of)
        ctx.save_for_backward(for_weight, held)
        ctx.recipe, ctx.parts, ctx.of, ctx.dtypes = recipe, parts, of, (tensor.dtype, weight.dtype)
        return (for_output @ held.t()).to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        given, weight = ctx.saved_tensors
        for_input, for_weight = ctx.recipe.gradient(gradient, ctx.parts, ctx.of)
        of_tensor, of_weight = ctx.dtypes
        return (for_input @ weight).to(of_tensor), (for_weight.t() @ given).to(of_weight), None, None, None


def product(
    tensor: torch.Tensor, weight: torch.Tensor, recipe: Recipe, parts: torch.Tensor | None = None, of: Hashable = None
) -> torch.Tensor:
    """`functional.linear` as Transformer Engine computes it under `recipe`. Without `parts`, of whole sequences in order.

    Without `of` it is the product of this very weight.
    """
    rows = tensor.reshape(-1, tensor.shape[-1])
    parts = recipe.parts(len(rows), rows.device) if parts is None else parts
    found: torch.Tensor = _Product.apply(rows, weight, recipe, parts, id(weight) if of is None else of)
    return found.view(*tensor.shape[:-1], len(weight))


_active: list[Recipe] = []


class _Products(TorchFunctionMode):
    """Within it, products with these weights are taken under `recipe`."""

    def __init__(self, weights: Iterable[torch.Tensor], recipe: Recipe) -> None:
        super().__init__()
        self._weights, self._recipe = {id(weight) for weight in weights}, recipe

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is functional.linear and id(args[1]) in self._weights:
            return product(args[0], args[1], self._recipe)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def computing_with(recipe: Recipe, layers: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Within it the linear modules and the experts of these layers compute under `recipe`.

    Embedding, routers, attention and output head stay as they are: megatron-core's are none of Transformer Engine's linear
    layers. A recipe starts anew: what one step leaves for the next stays within.
    """
    recipe = recipe.begin()
    modules: list[Any] = [module for layer in layers for module in layer.modules()]
    # Layers of multi-token prediction have a configuration of their own.
    experts = {id(module.config): module.config for module in modules if hasattr(module, "gate_up_proj")}.values()
    before = [config._experts_implementation for config in experts]
    _active.append(recipe)
    try:
        for config in experts:
            config._experts_implementation = EXPERTS_IMPLEMENTATION
        with _Products((module.weight for module in modules if isinstance(module, torch.nn.Linear)), recipe):
            yield
    finally:
        for config, name in zip(experts, before, strict=True):
            config._experts_implementation = name
        _active.pop()


def _experts(module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
    """Each expert's two products by themselves. The router's weight comes before the second, as in megatron-core."""
    recipe, combined = _active[-1], torch.zeros_like(hidden_states)
    parts = recipe.parts(len(hidden_states), hidden_states.device)
    for expert, weights in enumerate(zip(module.gate_up_proj.unbind(), module.down_proj.unbind(), strict=True)):
        tokens, places = torch.where(top_k_index == expert)
        if not len(tokens):
            continue
        own = None if parts is None else parts[tokens]
        gate, up = product(hidden_states[tokens], weights[0], recipe, own, (id(module), expert, "up")).chunk(2, dim=-1)
        inner, down = module.act_fn(gate) * up * top_k_weights[tokens, places, None], (id(module), expert, "down")
        combined.index_add_(0, tokens, product(inner.to(combined.dtype), weights[1], recipe, own, down))
    return combined


# transformers' own way to bring experts of one's own.
ALL_EXPERTS_FUNCTIONS.register(EXPERTS_IMPLEMENTATION, _experts)
