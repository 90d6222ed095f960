"""The parameters of the HuggingFace checkpoint, known from the model alone.

The routed experts of a layer are listed as one parameter with the experts as its first dimension: in the file they are
one tensor per expert, and which expert is wrong is then an index, not a name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from validation.case.model import Model

EXPERTS = "mlp.experts."
TITLES = {
    "model.embed_tokens.weight": "Embedding Weight",
    "model.norm.weight": "Final Norm Weight",
    "lm_head.weight": "Output Layer Weight",
    "input_layernorm.weight": "Input Norm Weight",
    "self_attn.q_a_proj.weight": "Query Down Projection Weight",
    "self_attn.q_a_layernorm.weight": "Query Latent Norm Weight",
    "self_attn.q_b_proj.weight": "Query Up Projection Weight",
    "self_attn.q_proj.weight": "Query Projection Weight",
    "self_attn.kv_a_proj_with_mqa.weight": "KV Down Projection Weight",
    "self_attn.kv_a_layernorm.weight": "KV Latent Norm Weight",
    "self_attn.kv_b_proj.weight": "KV Up Projection Weight",
    "self_attn.indexer.wq_b.weight": "Indexer Query Weight",
    "self_attn.indexer.wk.weight": "Indexer Key Weight",
    "self_attn.indexer.k_norm.weight": "Indexer Key Norm Weight",
    "self_attn.indexer.k_norm.bias": "Indexer Key Norm Bias",
    "self_attn.indexer.weights_proj.weight": "Indexer Head Projection Weight",
    "self_attn.o_proj.weight": "Attention Output Projection Weight",
    "post_attention_layernorm.weight": "Pre-MLP Norm Weight",
    "mlp.gate_proj.weight": "MLP Gate Weight",
    "mlp.up_proj.weight": "MLP Up Weight",
    "mlp.down_proj.weight": "MLP Down Weight",
    "mlp.gate.weight": "Router Weight",
    "mlp.gate.e_score_correction_bias": "Router Expert Bias",
    "mlp.experts.gate_proj.weight": "Experts Gate Weight",
    "mlp.experts.up_proj.weight": "Experts Up Weight",
    "mlp.experts.down_proj.weight": "Experts Down Weight",
    "mlp.shared_experts.gate_proj.weight": "Shared Expert Gate Weight",
    "mlp.shared_experts.up_proj.weight": "Shared Expert Up Weight",
    "mlp.shared_experts.down_proj.weight": "Shared Expert Down Weight",
    "enorm.weight": "Embedding Norm Weight",
    "hnorm.weight": "Hidden Norm Weight",
    "eh_proj.weight": "Projection Weight",
    "shared_head.norm.weight": "Final Norm Weight",
}
"""What a reader sees, by the part of a parameter's name that follows the layer."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the checkpoint (or its one buffer, the router's expert bias, which has no gradient).

    `layer` is the checkpoint's number of its layer, `mtp` which layer of multi-token prediction that is, where it is one.
    """

    name: str
    layer: int | None
    shape: tuple[int, ...]
    trained: bool = True
    mtp: int | None = None

    @property
    def title(self) -> str:
        """The parameter as a reader sees it: `Layer 0 KV Down Projection Weight`, `MTP 0 Projection Weight`."""
        if self.layer is None:
            return TITLES[self.name]
        place = f"Layer {self.layer}" if self.mtp is None else f"MTP {self.mtp}"
        return f"{place} {TITLES[self.name.split('.', 3)[3]]}"

    def keys(self) -> tuple[str, ...]:
        """The names under which a checkpoint file holds it: one, or one per expert."""
        if EXPERTS not in self.name:
            return (self.name,)
        return tuple(self.name.replace(EXPERTS, f"{EXPERTS}{expert}.") for expert in range(self.shape[0]))


def _mlp(prefix: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}gate_proj.weight": (inner, hidden),
        f"{prefix}up_proj.weight": (inner, hidden),
        f"{prefix}down_proj.weight": (hidden, inner),
    }


def _attention(model: Model) -> dict[str, tuple[int, ...]]:
    heads, hidden = model.num_attention_heads, model.hidden_size
    query: dict[str, tuple[int, ...]]
    if model.q_lora_rank is None:
        query = {"self_attn.q_proj.weight": (heads * model.query_head_dim, hidden)}
    else:
        query = {
            "self_attn.q_a_proj.weight": (model.q_lora_rank, hidden),
            "self_attn.q_a_layernorm.weight": (model.q_lora_rank,),
            "self_attn.q_b_proj.weight": (heads * model.query_head_dim, model.q_lora_rank),
        }
    return {
        **query,
        "self_attn.kv_a_proj_with_mqa.weight": (model.kv_lora_rank + model.qk_rope_head_dim, hidden),
        "self_attn.kv_a_layernorm.weight": (model.kv_lora_rank,),
        "self_attn.kv_b_proj.weight": (heads * (model.qk_nope_head_dim + model.v_head_dim), model.kv_lora_rank),
        "self_attn.o_proj.weight": (hidden, heads * model.v_head_dim),
        **(_indexer(model) if model.sparse else {}),
    }


def _indexer(model: Model) -> dict[str, tuple[int, ...]]:
    """What chooses the keys of sparse attention, from the query latent and the hidden state."""
    heads, head, hidden = model.index_n_heads or 0, model.index_head_dim or 0, model.hidden_size
    return {
        "self_attn.indexer.wq_b.weight": (heads * head, model.q_lora_rank or 0),
        "self_attn.indexer.wk.weight": (head, hidden),
        "self_attn.indexer.k_norm.weight": (head,),
        "self_attn.indexer.k_norm.bias": (head,),
        "self_attn.indexer.weights_proj.weight": (heads, hidden),
    }


def _moe(model: Model) -> dict[str, tuple[int, ...]]:
    experts, hidden, inner = model.n_routed_experts, model.hidden_size, model.moe_intermediate_size
    routed = {name: (experts, *shape) for name, shape in _mlp(EXPERTS, hidden, inner).items()}
    shared = _mlp("mlp.shared_experts.", hidden, inner * model.n_shared_experts) if model.n_shared_experts else {}
    bias = {"mlp.gate.e_score_correction_bias": (experts,)} if model.sigmoid else {}
    return {"mlp.gate.weight": (experts, hidden), **bias, **routed, **shared}


def _block(model: Model, layer: int) -> dict[str, tuple[int, ...]]:
    dense = layer in model.dense_layers
    return {
        "input_layernorm.weight": (model.hidden_size,),
        **_attention(model),
        "post_attention_layernorm.weight": (model.hidden_size,),
        **(_mlp("mlp.", model.hidden_size, model.intermediate_size) if dense else _moe(model)),
    }


def _mtp(model: Model, layer: int) -> dict[str, tuple[int, ...]]:
    """Embedding and output head are the main model's."""
    hidden = model.hidden_size
    return {
        "enorm.weight": (hidden,),
        "hnorm.weight": (hidden,),
        "eh_proj.weight": (hidden, 2 * hidden),
        **_block(model, layer),
        "shared_head.norm.weight": (hidden,),
    }


def _of_layer(layer: int, shapes: Mapping[str, tuple[int, ...]], mtp: int | None = None) -> list[Parameter]:
    return [
        Parameter(f"model.layers.{layer}.{name}", layer, shape, trained=not name.endswith("_bias"), mtp=mtp)
        for name, shape in shapes.items()
    ]


@functools.cache
def parameters(model: Model) -> Mapping[str, Parameter]:
    """Every parameter of the checkpoint by name, in data-flow order."""
    found = [Parameter("model.embed_tokens.weight", None, (model.vocabulary_rows, model.hidden_size))]
    for layer in range(model.num_hidden_layers):
        found += _of_layer(layer, _block(model, layer))
    found.append(Parameter("model.norm.weight", None, (model.hidden_size,)))
    for index, layer in enumerate(model.mtp_layers):
        found += _of_layer(layer, _mtp(model, layer), index)
    if not model.tie_word_embeddings:
        found.append(Parameter("lm_head.weight", None, (model.vocabulary_rows, model.hidden_size)))
    return MappingProxyType({parameter.name: parameter for parameter in found})


_ELEMENTS_A_THREAD = 1 << 20


def threads(model: Model, cores: int) -> int:
    """How many threads a computation of the whole model is worth, by the elements of the weights of one of its layers.

    Those that share small matrices only wait for each other, however many layers there are.
    """
    elements = sum(math.prod(parameter.shape) for parameter in parameters(model).values())
    return min(cores, 1 + elements // max(model.num_hidden_layers, 1) // _ELEMENTS_A_THREAD)
