"""Recording every probe of the HuggingFace model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.model import Model
from validation.compare.observe import SIGMOID, Observed
from validation.reference import model as reference_model
from validation.reference.batch import Batch

Recorded = dict[str, torch.Tensor]


def record_forward(hf: DeepseekV3ForCausalLM, model: Model, batch: Batch) -> tuple[Recorded, torch.Tensor]:
    """Every forward probe by name, and the loss to go backward from.

    The loss is the mean over the positions that count, as training divides it.
    """
    found: Recorded = {}
    hooks = [hook for layer in range(model.num_hidden_layers) for hook in _layer_hooks(hf, model, layer, batch, found)]
    hooks += [
        hf.model.embed_tokens.register_forward_hook(_keep(found, "embedding")),
        hf.model.norm.register_forward_hook(_keep(found, "final_norm")),
    ]
    attention = _attention(found)
    reference_model.on_attention.append(attention)
    try:
        logits = hf(input_ids=batch.tokens, use_cache=False).logits
    finally:
        reference_model.on_attention.remove(attention)
        for hook in hooks:
            hook.remove()
    token_loss = functional.cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten(), reduction="none")
    token_loss = token_loss.view(batch.labels.shape)
    loss = (token_loss * batch.mask).sum() / batch.mask.sum()
    found |= {"logits": _copy(logits), "token_loss": _copy(token_loss), "loss": _copy(loss)}
    return found, loss


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _keep(found: Recorded, name: str) -> Callable[..., None]:
    def hook(module: Any, arguments: Any, output: Any) -> None:
        found[name] = _copy(output[0] if isinstance(output, tuple) else output)

    return hook


def _keep_input(found: Recorded, name: str) -> Callable[..., None]:
    def hook(module: Any, arguments: Any) -> None:
        found[name] = _copy(arguments[0])

    return hook


def _attention(found: Recorded) -> Callable[..., None]:
    def seen(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, context: torch.Tensor) -> None:
        """Query, key and value come as [batch, heads, sequence, dim]; the context has the sequence before the heads."""
        prefix = f"layers.{module.layer_idx}.attention"
        for part, tensor in (("query", query), ("key", key), ("value", value)):
            found[f"{prefix}.{part}"] = _copy(tensor.transpose(1, 2))
        found[f"{prefix}.core"] = _copy(context)

    return seen


def _layer_hooks(hf: DeepseekV3ForCausalLM, model: Model, index: int, batch: Batch, found: Recorded) -> list[Any]:
    layer, prefix = hf.model.layers[index], f"layers.{index}"
    attention = layer.self_attn
    outputs = {
        "input_norm": layer.input_layernorm,
        "attention.kv_latent": attention.kv_a_proj_with_mqa,
        "attention.output": attention.o_proj,
        "mlp_norm": layer.post_attention_layernorm,
        "output": layer,
    }
    if model.q_lora_rank is not None:
        outputs["attention.q_latent"] = attention.q_a_proj
    if index in model.dense_layers:
        outputs["mlp.output"] = layer.mlp
    else:
        outputs["moe.output"] = layer.mlp
        outputs["moe.shared_expert"] = layer.mlp.shared_experts
    hooks = [module.register_forward_hook(_keep(found, f"{prefix}.{kind}")) for kind, module in outputs.items()]
    hooks.append(layer.post_attention_layernorm.register_forward_pre_hook(_keep_input(found, f"{prefix}.attention.residual")))
    if index in model.moe_layers:
        hooks += _router_hooks(layer.mlp, f"{prefix}.moe", batch, found)
    return hooks


def _router_hooks(moe: Any, prefix: str, batch: Batch, found: Recorded) -> list[Any]:
    size = batch.tokens.shape
    modes: list[Observed] = []

    def scores(tensor: torch.Tensor) -> None:
        found[f"{prefix}.router.scores"] = _copy(tensor.view(*size, -1))

    def enter(module: Any, arguments: Any) -> None:
        modes.append(Observed(SIGMOID, scores))
        modes[-1].__enter__()

    def leave(module: Any, arguments: Any, output: Any) -> None:
        modes.pop().__exit__(None, None, None)
        logits, weights, experts = output
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, experts, value=True)
        spread = torch.zeros_like(logits, dtype=weights.dtype).scatter(1, experts, weights)
        for part, tensor in (("logits", logits), ("experts", chosen), ("weights", spread)):
            found[f"{prefix}.router.{part}"] = _copy(tensor.view(*size, -1))

    def routed(module: Any, arguments: Any, output: torch.Tensor) -> None:
        found[f"{prefix}.routed"] = _copy(output.view(*size, -1))

    return [
        moe.gate.register_forward_pre_hook(enter),
        moe.gate.register_forward_hook(leave),
        moe.experts.register_forward_hook(routed),
    ]
