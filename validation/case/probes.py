"""The probes: every place in the model where a tensor is recorded, known from the model alone.

A probe's tensor has the axes of the HuggingFace side, batch first. What a rank holds of it is a piece (validation.compare).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from validation.case import joined_latents
from validation.case.case import Case
from validation.case.model import Model

TITLES = {
    "embedding": "Embedding Output",
    "input_norm": "Input Norm Output",
    "attention.q_latent": "Query Latent",
    "attention.kv_latent": "KV Latent",
    "attention.projected_query": "Query before RoPE",
    "attention.absorbed_query": "Absorbed Query",
    "attention.absorbed_key": "Absorbed Key",
    "indexer.query": "Indexer Query",
    "indexer.key": "Indexer Key",
    "indexer.weights": "Indexer Head Weights",
    "indexer.scores": "Indexer Scores",
    "indexer.keys": "Indexer Output",
    "attention.query": "Query after RoPE",
    "attention.key": "Key after RoPE",
    "attention.value": "Value",
    "attention.core": "Core Attention Output",
    "attention.output": "Attention Output",
    "attention.residual": "Post-Attention Residual",
    "mlp_norm": "Pre-MLP Norm Output",
    "mlp.output": "MLP Output",
    "moe.router.logits": "Router Logits",
    "moe.router.scores": "Router Scores",
    "moe.router.experts": "Router Output",
    "moe.router.weights": "Router Weights",
    "moe.balancing": "Load Balancing Loss",
    "moe.shared_expert": "Shared Expert Output",
    "moe.dispatched": "Dispatched Tokens",
    "moe.experts": "Weighted Expert Outputs",
    "moe.routed": "Routed Experts Output",
    "moe.output": "MoE Output",
    "output": "Layer Output",
    "mtp.embedding": "Embedding Output",
    "mtp.embedding_norm": "Embedding Norm Output",
    "mtp.hidden_norm": "Hidden Norm Output",
    "mtp.projection": "Projection Output",
    "mtp.final_norm": "Final Norm Output",
    "mtp.logits": "Logits",
    "mtp.token_loss": "Token Losses",
    "mtp.loss": "Loss",
    "final_norm": "Final Norm Output",
    "logits": "Logits",
    "token_loss": "Token Losses",
    "loss": "Loss",
}
"""What a reader sees, by the part of a probe's name that follows the layer."""


_WITHOUT_GRADIENT = (
    *("moe.router.experts", "moe.balancing", "mtp.loss", "loss"),
    *("attention.absorbed_query", "attention.absorbed_key"),
)


@dataclass(frozen=True)
class Probe:
    """A named place and the shape of what is recorded there.

    `axes` names each dimension: batch, sequence, heads, vocabulary, columns are those that layouts cut; the others stay
    whole. `mtp` says which layer of multi-token prediction `layer` is, where it is one.
    """

    name: str
    layer: int | None
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    mtp: int | None = None

    @property
    def kind(self) -> str:
        """The name without its layer: `attention.output`."""
        return self.name if self.layer is None else self.name.split(".", 2)[2]

    @property
    def has_gradient(self) -> bool:
        """Whether a gradient reaches it that is compared.

        None reaches a choice, which is discrete, nor what chooses keys, nor a loss, where it starts. That of an absorbed tensor
        is a sum of parts on several ranks on one side, and on the other it never is a tensor.
        """
        return self.kind not in _WITHOUT_GRADIENT and not self.kind.startswith("indexer.")

    @property
    def title(self) -> str:
        """The probe as a reader sees it: `Layer 0 Attention Output`, `MTP 0 Attention Output`."""
        if self.layer is None:
            return TITLES[self.kind]
        place = f"Layer {self.layer}" if self.mtp is None else f"MTP {self.mtp}"
        return f"{place} {TITLES[self.kind]}"


def _dense_axes(model: Model) -> dict[str, dict[str, int]]:
    """What attention to all keys is given."""
    heads = {"heads": model.num_attention_heads}
    return {
        "attention.query": {**heads, "head_dim": model.query_head_dim},
        "attention.key": {**heads, "head_dim": model.query_head_dim},
        "attention.value": {**heads, "head_dim": model.v_head_dim},
    }


def _sparse_axes(model: Model) -> dict[str, dict[str, int]]:
    """What sparse attention is given, and its indexer's way to the keys.

    Megatron-Core multiplies the key's up-projection into the query, so that all heads share one key: the normed latent and the
    rotary part. `seen` are the keys, of which those behind the query count as 0.
    """
    heads, own = {"heads": model.num_attention_heads}, {"index_heads": model.index_n_heads or 0}
    head, absorbed, keys = model.index_head_dim or 0, model.kv_lora_rank + model.qk_rope_head_dim, {"seen": 0}
    return {
        "attention.projected_query": {**heads, "head_dim": model.query_head_dim},
        "attention.absorbed_query": {**heads, "head_dim": absorbed},
        "attention.absorbed_key": {"elements": absorbed},
        "indexer.query": {**own, "elements": head},
        "indexer.key": {"elements": head},
        "indexer.weights": own,
        "indexer.scores": keys,
        "indexer.keys": keys,
    }


def _layer_axes(model: Model, layer: int) -> dict[str, dict[str, int]]:
    """The cut and whole axes of each probe of one layer, after batch and sequence, in data-flow order."""
    heads = {"heads": model.num_attention_heads}
    hidden = {"hidden": model.hidden_size}
    experts = {"experts": model.n_routed_experts}
    query_latent = {"attention.q_latent": {"latent": model.q_lora_rank}} if model.q_lora_rank is not None else {}
    attention = {
        "input_norm": hidden,
        **query_latent,
        "attention.kv_latent": {"latent": model.kv_lora_rank + model.qk_rope_head_dim},
        **(_sparse_axes(model) if model.sparse else _dense_axes(model)),
        "attention.core": {**heads, "head_dim": model.v_head_dim},
        "attention.output": hidden,
        "attention.residual": hidden,
        "mlp_norm": hidden,
    }
    if layer in model.dense_layers:
        return {**attention, "mlp.output": hidden, "output": hidden}
    shared = {"moe.shared_expert": hidden} if model.n_shared_experts else {}
    return {
        **attention,
        "moe.router.logits": experts,
        "moe.router.scores": experts,
        "moe.router.experts": experts,
        "moe.router.weights": experts,
        **shared,
        "moe.routed": hidden,
        "moe.output": hidden,
        "output": hidden,
    }


def _mtp_axes(model: Model, layer: int, tokens: dict[str, int]) -> dict[str, dict[str, int]]:
    """All axes of each probe of one layer of multi-token prediction, in data-flow order."""
    hidden = {**tokens, "hidden": model.hidden_size}
    return {
        "mtp.embedding": hidden,
        "mtp.embedding_norm": hidden,
        "mtp.hidden_norm": hidden,
        "mtp.projection": {**tokens, "columns": model.hidden_size},
        **{kind: {**tokens, **axes} for kind, axes in _layer_axes(model, layer).items()},
        "mtp.final_norm": hidden,
        "mtp.logits": {**tokens, "vocabulary": model.vocabulary_rows},
        "mtp.token_loss": tokens,
        "mtp.loss": {},
    }


@functools.cache
def probes(model: Model, batch_size: int, seq_length: int) -> Mapping[str, Probe]:
    """Every probe of the model by name, in data-flow order.

    A layer of multi-token prediction sees at each position the next token, too, and the last one has none: its tensors end
    one position earlier, the next such layer's two. What Megatron computes there, from a filler, is nobody's concern.
    """
    tokens = {"batch": batch_size, "sequence": seq_length}
    found: list[Probe] = []

    def add(name: str, layer: int | None, axes: dict[str, int], mtp: int | None = None) -> None:
        found.append(Probe(name, layer, tuple(axes), tuple(axes.values()), mtp))

    add("embedding", None, {**tokens, "hidden": model.hidden_size})
    for layer in range(model.num_hidden_layers):
        for kind, axes in _layer_axes(model, layer).items():
            seen = {"seen": seq_length} if "seen" in axes else {}
            add(f"layers.{layer}.{kind}", layer, {**tokens, **axes, **seen})
    add("final_norm", None, {**tokens, "hidden": model.hidden_size})
    for index, layer in enumerate(model.mtp_layers):
        known = {"batch": batch_size, "sequence": seq_length - 1 - index}
        for kind, axes in _mtp_axes(model, layer, known).items():
            add(f"layers.{layer}.{kind}", layer, axes, index)
    add("logits", None, {**tokens, "vocabulary": model.vocabulary_rows})
    add("token_loss", None, tokens)
    add("loss", None, {})
    return MappingProxyType({probe.name: probe for probe in found})


def _by_expert(routed: Probe, model: Model) -> tuple[Probe, ...]:
    """The tensors between dispatch and combine, [batch, sequence, experts, hidden]."""
    axes, shape = (*routed.axes[:2], "experts", "hidden"), (*routed.shape[:2], model.n_routed_experts, routed.shape[2])
    kinds = ("moe.dispatched", "moe.experts")
    return tuple(replace(routed, name=f"layers.{routed.layer}.{kind}", axes=axes, shape=shape) for kind in kinds)


def sees_scores(case: Case) -> bool:
    """Whether the scores of routers are tensors, and not inside of a kernel."""
    return not case.training.effective("model").get("moe_router_fusion")


@functools.cache
def observed(case: Case) -> Mapping[str, Probe]:
    """The probes that a case can record, by name, in data-flow order.

    Transformer Engine joins a dense layer's pre-MLP norm with the linear layer behind it, and the input norm with one
    down-projection for both latents; its fused router makes experts and weights of the logits: what lies between is never a
    tensor. What each expert is given and what it makes of it, zero for tokens of others, is known of isolated cases only:
    otherwise a token's place in these tensors would depend on what came before.
    """
    found = probes(case.model, case.batch_size, case.seq_length)
    fused = {f"layers.{layer}.mlp_norm" for layer in case.model.dense_layers} if case.uses_te else set()
    fused |= {f"layers.{layer}.input_norm" for layer in case.model.blocks} if joined_latents.with_norm(case) else set()
    fused |= set() if sees_scores(case) else {f"layers.{layer}.moe.router.scores" for layer in case.model.expert_blocks}
    seen: dict[str, Probe] = {}
    for name, probe in found.items():
        if case.isolated and probe.kind == "moe.routed":
            seen |= {each.name: each for each in _by_expert(probe, case.model)}
        if name not in fused:
            seen[name] = probe
        if case.training.balancing != "none" and probe.kind == "moe.router.weights":
            balancing = f"layers.{probe.layer}.moe.balancing"
            seen[balancing] = replace(probe, name=balancing, axes=(), shape=())
    return MappingProxyType(seen)
