"""The floor of fp8: what the HuggingFace model is given in eight bits, as Transformer Engine gives it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training
from validation.reference import store
from validation.reference.compute import compute
from validation.reference.fp8 import E4M3, E5M2, Blockwise, Delayed, Recipe, block_scale, in_blocks, product, quantised, recipes


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small wait for their threads more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


EXACT = [1.0, 1.125, 1.875, 448.0, -240.0, 2.0**-9, 0.0]
"""Of e4m3."""


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bfloat16)


@pytest.mark.parametrize("value", EXACT)
def test_what_fp8_has_stays(value: float) -> None:
    assert quantised(tensor(value), E4M3).item() == value


@pytest.mark.parametrize(
    ("given", "held"),
    [(1.0625, 1.0), (1.1875, 1.25), (500.0, 448.0), (-3e38, -448.0), (2.0**-10, 0.0), (3 * 2.0**-10, 2.0**-8)],
)
def test_the_rest_is_rounded_to_even_or_saturates(given: float, held: float) -> None:
    """With a scale of 1, which the first step of delayed scaling has: small weights lose their low bits."""
    assert quantised(tensor(given), E4M3).item() == held


def test_gradients_have_more_range_and_less_precision() -> None:
    found = quantised(tensor(1.125, 1e5, 2.0**-16, 2.0**-18), E5M2)
    assert found.tolist() == [1.0, 57344.0, 2.0**-16, 0.0]


def test_nan_stays() -> None:
    assert quantised(tensor(float("nan")), E4M3).isnan().all()


def test_the_scale_of_a_block_is_the_power_of_two_that_fits() -> None:
    found = block_scale(torch.tensor([448.0, 449.0, 1.0, 7.0, 0.0, 1e-45, float("inf")]), E4M3)
    assert found.tolist() == [1.0, 0.5, 256.0, 64.0, 1.0, 2.0**127, 1.0]


def test_each_block_has_its_own_scale() -> None:
    """A thousandth next to a thousand survives in another block and is lost in the same."""
    row = torch.full((1, 256), 1e-3)
    row[0, 0] = 1000.0
    found = in_blocks(row, E4M3, 1, 128)[0]
    assert found[1:128].eq(0).all()
    assert torch.allclose(found[128:], torch.tensor(1e-3), rtol=2**-4)
    assert torch.equal(in_blocks(row.t(), E4M3, 128, 1)[:, 0], found)
    assert in_blocks(row, E4M3, 128, 128)[0, 128:].gt(0).all()


def test_blocks_at_the_edges_are_what_is_left() -> None:
    """As if the matrix went on with zeros, which have no part in a largest magnitude."""
    matrix = torch.randn(130, 200, generator=torch.Generator().manual_seed(0))
    whole = functional.pad(matrix, (0, 56, 0, 126))
    assert torch.equal(in_blocks(matrix, E4M3, 128, 128), in_blocks(whole, E4M3, 128, 128)[:130, :200])


def test_blocks_lie_along_what_a_product_adds_up() -> None:
    """Features for the output, tokens for the weight's gradient."""
    matrix = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 256)
    for_output, for_weight = Blockwise().given(matrix, None)
    assert torch.equal(for_weight, Blockwise().given(matrix.t(), None)[0].t())
    assert not torch.equal(for_weight, for_output)


def test_later_micro_batches_are_scaled_by_the_one_before() -> None:
    """The first has no history; a scale of 448 / 7 holds seven and its fractions, and what is larger saturates."""
    rows = torch.tensor([[5e-4, 7.0], [5e-4, 14.0]], dtype=torch.bfloat16)
    recipe = Delayed(2)
    found, _ = recipe.given(rows, recipe.parts(2, rows.device))
    assert found[0].tolist() == [0.0, 7.0]
    assert found[1, 0].item() == pytest.approx(5e-4, rel=2**-4)
    assert found[1, 1].item() == 7.0


def test_a_micro_batch_of_zeros_leaves_the_scale() -> None:
    rows = torch.tensor([[7.0], [0.0], [1.0]], dtype=torch.bfloat16)
    recipe = Delayed(3)
    scales = recipe._scales(rows, E4M3, recipe.parts(3, rows.device), (0, "given"))
    assert scales.flatten().tolist() == [1.0, 64.0, 64.0]


def test_a_further_step_begins_with_what_the_last_micro_batch_left() -> None:
    """Of each product by itself; weights are quantised once a step. A run of its own begins with 1 again."""
    recipe = Delayed(2)
    parts = recipe.parts(2, torch.device("cpu"))
    first, second = (torch.tensor([[one], [other]], dtype=torch.bfloat16) for one, other in ((7.0, 14.0), (3.5, 28.0)))
    recipe.given(first, parts, "a")
    assert recipe._scales(second, E4M3, parts, ("a", "given")).flatten().tolist() == [32.0, 128.0]
    assert recipe._scales(second, E4M3, parts, ("b", "given")).flatten().tolist() == [1.0, 128.0]
    assert recipe.weight(torch.tensor([[5e-4, 7.0]]), "a")[0, 0] == 0
    assert recipe.weight(torch.tensor([[5e-4, 7.0]]), "a")[0, 0].item() == pytest.approx(5e-4, rel=2**-4)
    assert recipe.begin().weight(torch.tensor([[5e-4, 7.0]]), "a")[0, 0] == 0
    assert recipe.left[("a", "weight")] == 64.0


@pytest.mark.parametrize("recipe", [Delayed(), Delayed(2), Blockwise()], ids=lambda recipe: recipe.name)
def test_a_product_is_that_of_what_was_quantised(recipe: Recipe) -> None:
    """Output and both gradients, each from the tensors that the recipe gives it; no other rounding but the result's."""
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(2, 96, 64, generator=generator).bfloat16().requires_grad_()
    weight = (torch.randn(80, 64, generator=generator) / 8).bfloat16().requires_grad_()
    gradient = torch.randn(2, 96, 80, generator=generator).bfloat16()
    found = product(given, weight, recipe)
    found.backward(gradient)
    parts = recipe.parts(192, given.device)
    for_output, for_weight = recipe.given(given.detach().flatten(0, 1), parts)
    back, for_wgrad = recipe.gradient(gradient.flatten(0, 1), parts)
    held = recipe.weight(weight.detach())
    assert torch.equal(found.flatten(0, 1), (for_output @ held.T).bfloat16())
    assert given.grad is not None
    assert torch.equal(given.grad.flatten(0, 1), (back @ held).bfloat16())
    assert weight.grad is not None
    assert torch.equal(weight.grad, (for_wgrad.T @ for_weight).bfloat16())


def test_what_is_quantised_is_off_by_what_three_bits_leave() -> None:
    """Two operands, each off by 2.6 percent on average."""
    generator = torch.Generator().manual_seed(2)
    given, weight = (torch.randn(256, 256, generator=generator) for _ in range(2))
    truth = given @ weight.T
    for recipe in (Delayed(), Blockwise()):
        error = float((product(given, weight, recipe) - truth).norm() / truth.norm())
        assert 0.03 < error < 0.045


def case(fp8: str) -> Case:
    model = replace(TINY.model, q_lora_rank=32, n_routed_experts=8, num_hidden_layers=2, num_nextn_predict_layers=1)
    return Case("tiny", model, Layout(), "bf16", "te", "gloo", 1, 2, 1, 32, training=Training(fp8=fp8))


def test_delayed_scaling_is_measured_with_one_micro_batch_and_with_several() -> None:
    """Layouts that share a reference have other numbers of them."""
    assert recipes(case("delayed")) == (Delayed(1), Delayed(2))
    assert recipes(replace(case("delayed"), batch_size=1)) == (Delayed(1),)
    assert recipes(case("none")) == ()


@dataclass(frozen=True)
class Seen(Delayed):
    """Delayed scaling that notes which weights it is asked for, by their bytes."""

    weights: set[bytes] = field(default_factory=set)

    def weight(self, tensor: torch.Tensor, of: Hashable = None) -> torch.Tensor:
        """The bytes, and what it would have been."""
        self.weights.add(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        return super().weight(tensor, of)


def test_every_linear_layer_and_expert_is_in_fp8_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five products of attention in each of three blocks, three of each MLP, two of each expert, and the MTP layer's own."""
    seen = Seen()
    monkeypatch.setattr("validation.reference.fp8.recipes", lambda case: (seen,))
    compute(case("delayed"), tmp_path, torch.device("cpu"), lambda _: None)
    attention, dense, shared, experts, mtp = 3 * 5, 3, 2 * 3, 2 * 8 * 2, 1
    assert len(seen.weights) == attention + dense + shared + experts + mtp


def test_each_recipe_has_a_reference_of_its_own() -> None:
    assert len({store.key(case(fp8)) for fp8 in ("none", "delayed", "blockwise")}) == 3


@pytest.fixture(scope="module")
def floors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """By recipe, of a small model with experts and an MTP layer."""
    home: Path = tmp_path_factory.mktemp("home")
    device = torch.device("cpu")
    return {fp8: compute(case(fp8), home, device, lambda _: None).facts()["floor"] for fp8 in ("none", "delayed", "blockwise")}


IN_FP8 = (
    "layers.0.attention.q_latent",
    "layers.0.attention.kv_latent",
    "layers.0.attention.output",
    "layers.0.mlp.output",
    "layers.1.moe.shared_expert",
    "layers.1.moe.routed",
    "layers.2.mtp.projection",
    "logits",
    "probe_gradients/layers.0.output",
    "gradients/model.layers.0.mlp.gate_proj.weight",
    "gradients/model.layers.1.mlp.experts.down_proj.weight",
)


@pytest.mark.parametrize("fp8", ["delayed", "blockwise"])
def test_the_floor_of_fp8_is_above_that_of_bf16_and_below_that_of_a_bug(floors: dict[str, dict[str, float]], fp8: str) -> None:
    """A tensor that is missing is off by 1."""
    found, plain = floors[fp8], floors["none"]
    assert found.keys() == plain.keys()
    for name in IN_FP8:
        assert 3 * plain[name] < found[name] < 0.5, (name, plain[name], found[name])


@pytest.mark.parametrize("fp8", ["delayed", "blockwise"])
def test_what_comes_before_the_first_product_is_in_bf16(floors: dict[str, dict[str, float]], fp8: str) -> None:
    for name in ("embedding", "layers.0.input_norm"):
        assert floors[fp8][name] == floors["none"][name]


def test_the_first_product_is_off_by_what_two_operands_lose(floors: dict[str, dict[str, float]]) -> None:
    """And not by more: nothing is quantised twice."""
    for fp8 in ("delayed", "blockwise"):
        assert 0.03 < floors[fp8]["layers.0.attention.q_latent"] < 0.045
