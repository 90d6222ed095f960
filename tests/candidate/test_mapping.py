"""The mapping of weights: over the ranks of any layout, each checkpoint parameter has its place, once."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from validation.candidate.weights import Holding, Ranks, UnknownTensorError, holdings
from validation.case.model import Model
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.compare.piece import Box, box_shape, slices, uncovered

MODELS = {
    "tiny": TINY.model,
    "without q_lora": replace(TINY.model, q_lora_rank=None),
    "tied": replace(TINY.model, tie_word_embeddings=True),
    "without shared expert": replace(TINY.model, n_shared_experts=0),
    "two MTP layers": replace(TINY.model, num_nextn_predict_layers=2),
}
DEGREES = list(itertools.product((1, 2), repeat=3))
JOINED = "te with one down-projection for both latents"
SPELLINGS = ("local", "local-stock", "te", JOINED)

Shapes = dict[str, tuple[int, ...]]


def attention(model: Model, spelling: str, tp: int) -> Shapes:
    """Local duplicates the down-projections and has norms of their own; te joins the norms with what follows.

    One down-projection for both latents is cut, and has the layer's norm.
    """
    joined, spelling = spelling == JOINED, spelling[:2] if spelling == JOINED else spelling
    heads, hidden, down = model.num_attention_heads // tp, model.hidden_size, tp if spelling == "local-stock" else 1
    shapes: Shapes = {
        "linear_kv_down_proj.weight": ((model.kv_lora_rank + model.qk_rope_head_dim) // down, hidden),
        "linear_kv_up_proj.weight": (heads * (model.qk_nope_head_dim + model.v_head_dim), model.kv_lora_rank),
        "linear_proj.weight": (hidden, heads * model.v_head_dim),
        "linear_kv_up_proj.layer_norm_weight" if spelling == "te" else "kv_layernorm.weight": (model.kv_lora_rank,),
    }
    if model.q_lora_rank is None:
        return shapes | {"linear_q_proj.weight": (heads * model.query_head_dim, hidden)}
    if joined:
        rows = model.q_lora_rank + shapes.pop("linear_kv_down_proj.weight")[0]
        down_projections: Shapes = {"linear_qkv_down_proj.weight": (rows // tp, hidden)}
    else:
        down_projections = {"linear_q_down_proj.weight": (model.q_lora_rank // down, hidden)}
    return shapes | {
        **down_projections,
        "linear_q_up_proj.weight": (heads * model.query_head_dim, model.q_lora_rank),
        "linear_q_up_proj.layer_norm_weight" if spelling == "te" else "q_layernorm.weight": (model.q_lora_rank,),
    }


def mlp(inner: int, hidden: int) -> Shapes:
    """Gate and up in one, then down."""
    return {"linear_fc1.weight": (2 * inner, hidden), "linear_fc2.weight": (hidden, inner)}


def experts(model: Model, spelling: str, ranks: Ranks) -> Shapes:
    """Router, shared expert, and those experts that this rank holds, under its own numbers."""
    inner, count = model.moe_intermediate_size, model.n_routed_experts
    shapes: Shapes = {"router.weight": (count, model.hidden_size), "router.expert_bias": (count,)}
    if model.n_shared_experts:
        shared = mlp(inner * model.n_shared_experts // ranks.tp[1], model.hidden_size)
        shapes |= {f"shared_experts.{name}": shape for name, shape in shared.items()}
    for expert in range(count // ranks.ep[1]):
        for name, shape in mlp(inner // ranks.etp[1], model.hidden_size).items():
            shapes[f"experts.{name}{expert}" if spelling[:2] == "te" else f"experts.local_experts.{expert}.{name}"] = shape
    return shapes


def layer(model: Model, spelling: str, ranks: Ranks, dense: bool) -> Shapes:
    """Norms, attention, and an MLP or experts."""
    tp, hidden = ranks.tp[1], model.hidden_size
    norm = "mlp.linear_fc1.layer_norm_weight" if dense and spelling[:2] == "te" else "pre_mlp_layernorm.weight"
    inner = mlp(model.intermediate_size // tp, hidden) if dense else experts(model, spelling, ranks)
    joined = spelling == JOINED and model.q_lora_rank is not None
    before = "self_attention.linear_qkv_down_proj.layer_norm_weight" if joined else "input_layernorm.weight"
    shapes: Shapes = {before: (hidden,), norm: (hidden,)}
    shapes |= {f"self_attention.{name}": shape for name, shape in attention(model, spelling, tp).items()}
    return shapes | {f"mlp.{name}": shape for name, shape in inner.items()}


def megatron_tensors(model: Model, spelling: str, ranks: Ranks) -> Shapes:
    """Every tensor of a rank, named as megatron-core names it, with the shape that it has there."""
    tp, hidden = ranks.tp[1], model.hidden_size
    found: Shapes = {
        "embedding.word_embeddings.weight": (model.vocab_size // tp, hidden),
        "decoder.final_layernorm.weight": (hidden,),
        "output_layer.weight": (model.vocab_size // tp, hidden),
    }
    for index in range(model.num_hidden_layers):
        shapes = layer(model, spelling, ranks, index in model.dense_layers)
        found |= {f"decoder.layers.{index}.{name}": shape for name, shape in shapes.items()}
    for index in range(model.num_nextn_predict_layers):
        shapes = {f"transformer_layer.{name}": shape for name, shape in layer(model, spelling, ranks, False).items()}
        shapes |= {"enorm.weight": (hidden,), "hnorm.weight": (hidden,), "final_layernorm.weight": (hidden,)}
        shapes |= {"eh_proj.weight": (hidden // tp, 2 * hidden)}
        found |= {f"mtp.layers.{index}.{name}": shape for name, shape in shapes.items()}
    return found


def all_ranks(tp: int, etp: int, ep: int) -> Iterator[Ranks]:
    """Every place that a rank can have."""
    for a, b, c in itertools.product(range(tp), range(etp), range(ep)):
        yield Ranks(tp=(a, tp), etp=(b, etp), ep=(c, ep))


def held(model: Model, spelling: str, ranks: Ranks) -> dict[str, list[Holding]]:
    return {name: holdings(name, shape, model, ranks) for name, shape in megatron_tensors(model, spelling, ranks).items()}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(("tp", "etp", "ep"), DEGREES)
def test_the_ranks_together_hold_every_parameter(model: Model, spelling: str, tp: int, etp: int, ep: int) -> None:
    """Nothing is left out, nothing overlaps: two ranks hold the same part of a parameter or parts that do not meet."""
    boxes: dict[str, set[Box]] = defaultdict(set)
    for ranks in all_ranks(tp, etp, ep):
        for parts in held(model, spelling, ranks).values():
            for part in parts:
                boxes[part.parameter.name].add(part.box)
    known = parameters(model)
    assert set(boxes) == set(known)
    for name, parameter in known.items():
        assert uncovered(boxes[name], parameter.shape) is None, name
        assert sum(math.prod(box_shape(box)) for box in boxes[name]) == math.prod(parameter.shape), name


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("tp", "etp", "ep"), DEGREES)
def test_one_rank_holds_no_part_twice(spelling: str, tp: int, etp: int, ep: int) -> None:
    """Within a rank two Megatron tensors never hold the same elements of the checkpoint."""
    for ranks in all_ranks(tp, etp, ep):
        parts = [(part.parameter.name, part.box) for found in held(TINY.model, spelling, ranks).values() for part in found]
        assert len(parts) == len(set(parts))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("tp", "etp", "ep"), DEGREES)
def test_every_row_of_a_megatron_tensor_is_filled_once(spelling: str, tp: int, etp: int, ep: int) -> None:
    """The parts of a tensor follow each other from its first row to its last."""
    for ranks in all_ranks(tp, etp, ep):
        for name, shape in megatron_tensors(TINY.model, spelling, ranks).items():
            counts = torch.zeros(shape)
            for part in holdings(name, shape, TINY.model, ranks):
                part.of(counts).add_(1)
            assert (counts == 1).all(), name


@pytest.mark.parametrize(
    ("name", "sizes"), [("mlp.linear_fc1.weight", (96, 96)), ("self_attention.linear_qkv_down_proj.weight", (24, 48))]
)
def test_each_rank_has_its_own_half_of_both(name: str, sizes: tuple[int, int]) -> None:
    """Gate and up, and the latents of query and key, are cut first and joined then.

    Joined first, one rank would have all of gate and the other all of up.
    """
    model, ranks = TINY.model, Ranks(tp=(1, 2), etp=(0, 1), ep=(0, 1))
    both = [torch.randn(size, model.hidden_size) for size in sizes]
    shape = (sum(sizes) // 2, model.hidden_size)
    tensor = torch.full(shape, math.nan)
    for part, source in zip(holdings(f"decoder.layers.0.{name}", shape, model, ranks), both, strict=True):
        part.of(tensor).copy_(source[slices(part.box)])
    assert torch.equal(tensor, torch.cat([one[size // 2 :] for one, size in zip(both, sizes, strict=True)]))


@pytest.mark.parametrize("name", ["mlp.experts.local_experts.3.linear_fc2.weight", "mlp.experts.linear_fc2.weight3"])
def test_a_rank_counts_its_experts_from_zero(name: str) -> None:
    """Expert 3 of the second of two expert-parallel ranks is expert 11 of 16."""
    model, ranks = TINY.model, Ranks(tp=(0, 1), etp=(1, 2), ep=(1, 2))
    shape = (model.hidden_size, model.moe_intermediate_size // 2)
    (part,) = holdings(f"decoder.layers.2.{name}", shape, model, ranks)
    assert part.parameter.name == "model.layers.2.mlp.experts.down_proj.weight"
    assert part.box == ((11, 12), (0, model.hidden_size), (model.moe_intermediate_size // 2, model.moe_intermediate_size))


def test_an_mtp_layer_is_the_checkpoint_s_next() -> None:
    """The second of two behind four layers is the checkpoint's layer 5, and its head's norm is the layer's last."""
    model, ranks = MODELS["two MTP layers"], Ranks(tp=(1, 2), etp=(0, 1), ep=(0, 1))
    (projection,) = holdings("mtp.layers.1.eh_proj.weight", (32, 128), model, ranks)
    assert (projection.parameter.name, projection.box) == ("model.layers.5.eh_proj.weight", ((32, 64), (0, 128)))
    (norm,) = holdings("mtp.layers.0.final_layernorm.weight", (64,), model, ranks)
    assert norm.parameter.name == "model.layers.4.shared_head.norm.weight"


ONE = Ranks(tp=(0, 1), etp=(0, 1), ep=(0, 1))


@pytest.mark.parametrize(
    "name",
    [
        "decoder.layers.0.self_attention.linear_qkv.weight",
        "decoder.layers.0.self_attention.linear_proj.bias",
        "decoder.layers.1.mlp.experts.weight1",
        "decoder.layers.1.eh_proj.weight",
        "mtp.layers.0.input_layernorm.weight",
        "decoder.layers.0.mtp_model_layer.input_layernorm.weight",
    ],
)
def test_a_tensor_without_a_row_is_unknown(name: str) -> None:
    """Named, and not left as it was made."""
    with pytest.raises(UnknownTensorError, match="no row of the mapping"):
        holdings(name, (8, 8), TINY.model, ONE)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mtp.layers.0.eh_proj.weight", (64, 128)),
        ("decoder.layers.9.input_layernorm.weight", (64,)),
        ("decoder.layers.0.mlp.router.weight", (16, 64)),
        ("decoder.layers.1.mlp.linear_fc2.weight", (64, 96)),
        ("decoder.final_layernorm.weight", ()),
        ("decoder.layers.0.self_attention.linear_proj.weight", (64 * 128,)),
        ("decoder.layers.1.mlp.experts.local_experts.0.linear_fc1.weight", (1, 64, 64)),
    ],
)
def test_a_tensor_that_the_model_has_not_is_unknown(name: str, shape: tuple[int, ...]) -> None:
    """A layer too many, a router in a dense layer, a dense MLP among experts, other dimensions: the row is known, it is not."""
    with pytest.raises(UnknownTensorError):
        holdings(name, shape, TINY.model, ONE)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("decoder.layers.0.self_attention.linear_proj.weight", (64, 33)),
        ("decoder.layers.0.self_attention.linear_proj.weight", (32, 64)),
        ("decoder.layers.0.self_attention.linear_q_up_proj.weight", (100, 24)),
        ("decoder.layers.0.self_attention.kv_layernorm.weight", (17,)),
        ("decoder.layers.0.mlp.linear_fc1.weight", (95, 64)),
        ("decoder.layers.1.mlp.router.weight", (8, 64)),
        ("decoder.layers.1.mlp.experts.local_experts.0.linear_fc1.weight", (64, 63)),
        ("embedding.word_embeddings.weight", (127, 64)),
    ],
)
def test_a_shape_that_is_no_cut_is_unknown(name: str, shape: tuple[int, ...], tp: int) -> None:
    """Neither the whole nor this rank's share: padded, cut otherwise, or of another model."""
    with pytest.raises(UnknownTensorError, match="is no cut of"):
        holdings(name, shape, TINY.model, Ranks(tp=(tp - 1, tp), etp=(0, 1), ep=(0, 1)))
