"""Sparse attention (DSA) on the HuggingFace side: the indexer's way to its keys, and attention to those alone.

transformers' classes hand the chosen keys to the attention function if that is ours (validation.reference.model). They mask the
other keys themselves if it is their own. Both compute the same (tests/reference/test_families.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.models.deepseek_v32.configuration_deepseek_v32 import DeepseekV32Config
from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32ForCausalLM
from transformers.models.glm_moe_dsa.configuration_glm_moe_dsa import GlmMoeDsaConfig
from transformers.models.glm_moe_dsa.modeling_glm_moe_dsa import GlmMoeDsaForCausalLM

from validation.case.model import Model
from validation.compare.observe import Indexer
from validation.reference.keys import by_key, keys_of

if TYPE_CHECKING:
    from validation.reference.record import Recording


def classes(model: Model) -> tuple[Any, Any]:
    """The configuration and the model of transformers: DeepSeek-V3.2's, or GLM-5's, whose indexer rotates interleaved pairs."""
    if model.indexer_rope_interleave:
        return GlmMoeDsaConfig, GlmMoeDsaForCausalLM
    return DeepseekV32Config, DeepseekV32ForCausalLM


def absorbed(attention: Any, query: torch.Tensor, key: torch.Tensor, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key as Megatron-Core's attention has them: [batch, sequence, heads, elements], and the key without heads.

    A query's product with a key is the same if the key's up-projection is multiplied into the query and the key is the latent.
    Both go on with the rotary part, which all heads of the key share. `query` and `key` are [batch, heads, sequence, dim].
    """
    plain, rotary = query.transpose(1, 2).split([attention.qk_nope_head_dim, attention.qk_rope_head_dim], dim=-1)
    by_head = attention.kv_b_proj.weight.unflatten(0, (query.shape[1], -1))[:, : attention.qk_nope_head_dim]
    joined = torch.einsum("bshd,hdk->bshk", plain, by_head)
    shared = key[:, 0, :, attention.qk_nope_head_dim :]
    return torch.cat([joined, rotary], dim=-1), torch.cat([latent, shared], dim=-1)


def hooks(attention: Any, model: Model, layer: int, recording: Recording) -> list[Any]:
    """Hooks on one attention that keep what its indexer computes, and the query before its rotary part is turned."""
    prefix, modes = f"layers.{layer}", list[Indexer]()

    def by_head(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(-1, (model.num_attention_heads, -1))

    def projected(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return recording.keep(f"{prefix}.attention.projected_query", output, by_head)

    def weighted(module: Any, arguments: Any, output: torch.Tensor) -> None:
        recording.keep_value(f"{prefix}.indexer.weights", output)

    def multiplied(query: torch.Tensor, key: torch.Tensor) -> None:
        held = attention.indexer.wk.weight.dtype  # they are multiplied in float32
        recording.keep_value(f"{prefix}.indexer.query", query.to(held))
        recording.keep_value(f"{prefix}.indexer.key", key.squeeze(1).transpose(-1, -2).to(held))

    def choose(scores: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        there = scores != float("-inf")
        recording.keep_value(f"{prefix}.indexer.scores", scores.masked_fill(~there, 0.0))
        recording.keep_value(f"{prefix}.indexer.keys", by_key(indices, scores.shape[-1]) & there)
        replayed = None if recording.replay is None else recording.replay[keys_of(layer)]
        return indices if replayed is None else replayed.to(indices.device)

    def enter(module: Any, arguments: Any) -> None:
        modes.append(Indexer(choose, multiplied))
        modes[-1].__enter__()

    def leave(module: Any, arguments: Any, output: Any) -> None:
        modes.pop().__exit__(None, None, None)

    def normed(module: Any, arguments: Any, output: torch.Tensor) -> None:
        recording.latents[attention] = output.detach()

    return [
        attention.q_b_proj.register_forward_hook(projected),
        attention.kv_a_layernorm.register_forward_hook(normed),
        attention.indexer.weights_proj.register_forward_hook(weighted),
        attention.indexer.register_forward_pre_hook(enter),
        attention.indexer.register_forward_hook(leave),
    ]
