"""The floor of fp8 is of the right thing: what is quantised here is what Transformer Engine quantises, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.gpu.conftest import needs_gpu
from validation.case.fp8 import BLOCK
from validation.reference.fp8 import E4M3, E5M2, Blockwise, Delayed, Recipe, in_blocks, product, quantised

pytestmark = [pytest.mark.gpu, needs_gpu]
SHAPES = [(256, 384), (192, 1024), (320, 336), (144, 64)]
"""Whole blocks, and what is left of them."""


def te(part: str) -> Any:
    """A module of Transformer Engine, which is imported by these tests alone; without it they are skipped."""
    pytest.importorskip("transformer_engine", reason="no Transformer Engine here", exc_type=ImportError)
    return pytest.importorskip(part)


def wide(*shape: int) -> torch.Tensor:
    """Numbers of all magnitudes: subnormal in fp8, too large for it, zero; a block of zeros where there is room."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    numbers = torch.randn(shape, generator=generator, device="cuda") * torch.logspace(-6, 3, shape[-1], device="cuda")
    numbers[::7, ::5] = 0
    numbers[:128, :128] = 0 if shape[0] > 256 else numbers[:128, :128]
    return numbers.bfloat16()


def kind(dtype: torch.dtype) -> Any:
    tex = te("transformer_engine_torch")
    return {E4M3: tex.DType.kFloat8E4M3, E5M2: tex.DType.kFloat8E5M2}[dtype]


@pytest.mark.parametrize("scale", [1.0, 64.0, 448 / 37.3])
@pytest.mark.parametrize("dtype", [E4M3, E5M2], ids=str)
def test_a_tensor_with_one_scale_is_quantised_as_transformer_engine_does(dtype: torch.dtype, scale: float) -> None:
    """A scale of 1 is what the first step of delayed scaling has."""
    module = te("transformer_engine.pytorch.tensor.float8_tensor")
    scales = torch.full((1,), scale, device="cuda")
    amax = torch.zeros(1, device="cuda")
    given = wide(256, 384)
    found = module.Float8Quantizer(scales, amax, kind(dtype))(given)
    assert amax.item() == given.abs().max().item()
    assert torch.equal(found._data.view(dtype).float() * found._scale_inv, quantised(given, dtype, scales))


def block_quantised(given: torch.Tensor, dimensions: int) -> Any:
    module = te("transformer_engine.pytorch.tensor.float8_blockwise_tensor")
    return module.Float8BlockQuantizer(
        kind(E4M3), rowwise=True, columnwise=True, force_pow_2_scales=True, block_scaling_dim=dimensions
    )(given)


def values(data: torch.Tensor, scales: torch.Tensor, rows: int) -> torch.Tensor:
    """What a matrix of bytes stands for; scales are [blocks of a row, rows], or of squares [blocks down, blocks across]."""
    height, width = data.shape
    if rows == 1:
        each = scales.t()[:height].repeat_interleave(BLOCK, 1)[:, :width]
    else:
        each = scales.repeat_interleave(BLOCK, 0)[:height].repeat_interleave(BLOCK, 1)[:, :width]
    return data.view(E4M3).float() * each


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_and_columns_are_quantised_in_blocks_as_transformer_engine_does(shape: tuple[int, int]) -> None:
    """An input's, once for the output and once for the weight's gradient."""
    given = wide(*shape)
    found = block_quantised(given, 1)
    for_output, for_weight = Blockwise().given(given, None)
    assert torch.equal(values(found._rowwise_data, found._rowwise_scale_inv, 1), for_output)
    assert torch.equal(values(found._columnwise_data, found._columnwise_scale_inv, 1), for_weight.t())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squares_are_quantised_as_transformer_engine_does(shape: tuple[int, int]) -> None:
    """A weight's."""
    given = wide(*shape)
    found = block_quantised(given, 2)
    assert torch.equal(values(found._rowwise_data, found._rowwise_scale_inv, BLOCK), in_blocks(given, E4M3, BLOCK, BLOCK))


def passes(layer: Any, recipe: Any, inputs: list[torch.Tensor], gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs and gradients of inputs of micro-batches one after the other, and the weight's gradient of all."""
    te("transformer_engine.pytorch.quantization").FP8GlobalStateManager.reset()
    found = []
    for index, (given, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        leaf = given.clone().requires_grad_()
        with te("transformer_engine.pytorch").fp8_autocast(enabled=True, fp8_recipe=recipe):
            output = layer(leaf, is_first_microbatch=index == 0)
        output.backward(gradient)
        assert leaf.grad is not None
        found += [output.detach(), leaf.grad]
    return [*found, layer.weight.grad]


@pytest.mark.parametrize("name", ["delayed", "blockwise"])
def test_a_linear_layer_of_transformer_engine_computes_our_product(name: str) -> None:
    """Two micro-batches, the second with the scales that the first leaves. Products in fp8 are off by percents; between the two
    only the accumulator differs, and bf16's rounding of the result.
    """
    library, rules = te("transformer_engine.pytorch"), te("transformer_engine.common.recipe")
    generator = torch.Generator(device="cuda").manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    inputs = [(noise(256, 512) * size).bfloat16() for size in (1, 3)]
    gradients = [(noise(256, 384) * size).bfloat16() for size in (0.01, 0.02)]
    weight = (noise(384, 512) / 512**0.5).bfloat16()
    ours: Recipe
    if name == "delayed":
        history: dict[str, Any] = {"amax_history_len": 1, "amax_compute_algo": "most_recent"}
        theirs, ours = rules.DelayedScaling(fp8_format=rules.Format.HYBRID, **history), Delayed(2)
    else:
        theirs, ours = rules.Float8BlockScaling(fp8_format=rules.Format.E4M3), Blockwise()
    layer = library.Linear(512, 384, bias=False, params_dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.copy_(weight)
    found = passes(layer, theirs, inputs, gradients)
    given, held = torch.cat(inputs).requires_grad_(), weight.clone().requires_grad_()
    output = product(given, held, ours)
    output.backward(torch.cat(gradients))
    assert given.grad is not None
    assert held.grad is not None
    outputs, of_inputs = output.detach().chunk(2), given.grad.chunk(2)
    expected = [outputs[0], of_inputs[0], outputs[1], of_inputs[1], held.grad]
    names = ("output 1", "input gradient 1", "output 2", "input gradient 2", "weight gradient")
    errors = {
        what: float((one.float() - other.float()).norm() / other.float().norm())
        for what, one, other in zip(names, found, expected, strict=True)
    }
    assert max(errors.values()) < 0.01, errors


def test_a_further_step_begins_with_the_scales_of_the_one_before() -> None:
    """Two steps of two micro-batches, the weight five times as large in the second: delayed scaling takes all scales along."""
    library, rules = te("transformer_engine.pytorch"), te("transformer_engine.common.recipe")
    theirs = rules.DelayedScaling(fp8_format=rules.Format.HYBRID, amax_history_len=1, amax_compute_algo="most_recent")
    generator, ours = torch.Generator(device="cuda").manual_seed(4), Delayed(2)
    layer = library.Linear(512, 384, bias=False, params_dtype=torch.bfloat16)
    held = (torch.randn(384, 512, generator=generator, device="cuda") / 512**0.5).bfloat16().requires_grad_()
    te("transformer_engine.pytorch.quantization").FP8GlobalStateManager.reset()
    errors = []
    for size in (1, 5):
        with torch.no_grad():
            held.mul_(size)
            layer.weight.copy_(held)
        given = [(torch.randn(256, 512, generator=generator, device="cuda") * size).bfloat16() for _ in range(2)]
        back = [(torch.randn(256, 384, generator=generator, device="cuda") * 0.01).bfloat16() for _ in range(2)]
        found = []
        for index in range(2):
            leaf = given[index].clone().requires_grad_()
            with library.fp8_autocast(enabled=True, fp8_recipe=theirs):
                output = layer(leaf, is_first_microbatch=index == 0)
            output.backward(back[index])
            assert leaf.grad is not None
            found += [output.detach(), leaf.grad]
        whole = torch.cat(given).requires_grad_()
        output = product(whole, held, ours)
        output.backward(torch.cat(back))
        assert whole.grad is not None
        (one, two), (of_one, of_two) = output.detach().chunk(2), whole.grad.chunk(2)
        for theirs_found, ours_found in zip(found, (one, of_one, two, of_two), strict=True):
            errors.append(float((theirs_found.float() - ours_found.float()).norm() / ours_found.float().norm()))
    assert max(errors) < 0.01, errors
