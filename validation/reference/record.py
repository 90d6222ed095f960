"""Recording every probe of the HuggingFace model, forward and gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.model import Model
from validation.compare.observe import Router
from validation.reference import loss
from validation.reference import model as reference_model
from validation.reference.batch import Batch
from validation.reference.routing import Routing

View = Callable[[torch.Tensor], torch.Tensor]


class Recording:
    """The probes of one step by name: `forward` after the forward pass, `gradients` after the backward pass.

    With `replay` the routers go on with those choices; what is recorded is what they would have chosen. What is kept lies in
    host memory, or where it was with `in_place`; without `values` only gradients are kept.
    """

    def __init__(self, replay: Routing | None = None, in_place: bool = False, values: bool = True) -> None:
        self.forward: dict[str, torch.Tensor] = {}
        self.gradients: dict[str, torch.Tensor] = {}
        self.replay = replay
        self._in_place, self._values = in_place, values

    def keep(self, name: str, tensor: torch.Tensor, view: View = lambda tensor: tensor) -> None:
        """Keep a tensor in the probe's shape, which `view` gives it, and the gradient that reaches it later."""
        self.keep_value(name, view(tensor.detach()))
        if tensor.requires_grad:

            def keep_gradient(gradient: torch.Tensor) -> None:
                self.gradients[name] = self._copy(view(gradient))

            tensor.register_hook(keep_gradient)

    def keep_value(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor that no gradient reaches, or not its gradient."""
        if self._values:
            self.forward[name] = self._copy(tensor)

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(tensor.device if self._in_place else "cpu", copy=True).contiguous()

    def output(self, name: str) -> Callable[..., None]:
        """A forward hook that keeps what the module returns."""

        def hook(module: Any, arguments: Any, output: Any) -> None:
            self.keep(name, output[0] if isinstance(output, tuple) else output)

        return hook

    def input(self, name: str) -> Callable[..., None]:
        """A forward pre-hook that keeps what the module is given."""

        def hook(module: Any, arguments: Any) -> None:
            self.keep(name, arguments[0])

        return hook

    @contextlib.contextmanager
    def attention(self, prefixes: Mapping[Any, str]) -> Iterator[None]:
        """Within it, what attention modules compute is kept, each under its own prefix."""

        def seen(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, context: torch.Tensor) -> None:
            """Query, key and value come as [batch, heads, sequence, dim]; the context has the sequence before the heads."""
            prefix = f"{prefixes[module]}.attention"
            for part, tensor in (("query", query), ("key", key), ("value", value)):
                self.keep(f"{prefix}.{part}", tensor, lambda tensor: tensor.transpose(1, 2))
            self.keep(f"{prefix}.core", context)

        reference_model.on_attention.append(seen)
        try:
            yield
        finally:
            reference_model.on_attention.remove(seen)


Further = Callable[[torch.Tensor, Recording], torch.Tensor | float]


def record_step(
    hf: DeepseekV3ForCausalLM,
    case: Case,
    batch: Batch,
    progress: Callable[[str], None],
    further: Further | None = None,
    replay: Routing | None = None,
    scale: float = 1.0,
) -> Recording:
    """Forward and backward, every probe of both; gradients are those of `scale` times the loss.

    The loss is that of the case, and what `further` adds: it gets the output of the final norm and records probes of its
    own.
    """
    model, recording = case.model, Recording(replay)
    layers = list(enumerate(hf.model.layers))
    hooks = [hook for index, layer in layers for hook in layer_hooks(layer, model, index, batch, recording)]
    hooks += [
        # Before any hook that moves what the layers get.
        hf.model.embed_tokens.register_forward_hook(recording.output("embedding"), prepend=True),
        hf.model.norm.register_forward_hook(recording.output("final_norm")),
    ]
    progress("reference forward")
    try:
        with recording.attention({layer.self_attn: f"layers.{index}" for index, layer in layers}):
            hidden = hf.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    total = record_loss(hf, case, batch, hidden, recording)
    if further is not None:
        total = total + further(hidden, recording)
    progress("reference backward")
    # Not total.backward(): torch suspends the active mode inside that method, and with it the promotion to float64.
    torch.autograd.backward(total * scale)
    return recording


def record_loss(
    hf: DeepseekV3ForCausalLM, case: Case, batch: Batch, hidden: torch.Tensor, recording: Recording
) -> torch.Tensor:
    """The step's loss from the output of the final norm, and the probes on the way there."""
    logits = hf.lm_head(hidden)
    recording.keep("logits", logits)
    token_losses = loss.token_losses(logits, batch.labels)
    recording.keep("token_loss", token_losses)
    total = loss.total(case, token_losses, batch)
    recording.keep_value("loss", total)
    return total


def layer_hooks(layer: Any, model: Model, index: int, batch: Batch, recording: Recording) -> list[Any]:
    """Hooks on one decoder layer that keep its probes, those between query and context aside (`Recording.attention`)."""
    prefix, attention = f"layers.{index}", layer.self_attn
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
    hooks = [module.register_forward_hook(recording.output(f"{prefix}.{kind}")) for kind, module in outputs.items()]
    residual = recording.input(f"{prefix}.attention.residual")
    hooks.append(layer.post_attention_layernorm.register_forward_pre_hook(residual))
    if index in model.expert_blocks:
        hooks += _router_hooks(layer.mlp, index, batch, recording)
    return hooks


def _router_hooks(moe: Any, layer: int, batch: Batch, recording: Recording) -> list[Any]:
    size, prefix = batch.tokens.shape, f"layers.{layer}.moe"
    modes: list[Router] = []
    own: list[torch.Tensor] = []

    def by_token(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(*size, -1)

    def seen_scores(scores: torch.Tensor) -> None:
        recording.keep(f"{prefix}.router.scores", scores, by_token)

    def choose(experts: torch.Tensor) -> torch.Tensor:
        own.append(experts)
        if recording.replay is None:
            return experts
        return recording.replay[f"{layer}/experts"].to(experts.device).flatten(0, 1)

    def enter(module: Any, arguments: Any) -> None:
        modes.append(Router(module.num_experts, seen_scores, choose))
        modes[-1].__enter__()

    def leave(module: Any, arguments: Any, output: Any) -> None:
        modes.pop().__exit__(None, None, None)
        logits, weights, experts = output

        def by_expert(tensor: torch.Tensor, chosen: torch.Tensor = experts) -> torch.Tensor:
            return by_token(tensor.new_zeros(logits.shape).scatter(1, chosen, tensor))

        recording.keep(f"{prefix}.router.logits", logits, by_token)
        recording.keep(f"{prefix}.router.weights", weights, by_expert)
        chosen = own.pop()
        recording.keep_value(f"{prefix}.router.experts", by_expert(torch.ones_like(chosen, dtype=torch.bool), chosen))

    def routed(module: Any, arguments: Any, output: torch.Tensor) -> None:
        recording.keep(f"{prefix}.routed", output, by_token)

    return [
        moe.gate.register_forward_pre_hook(enter),
        moe.gate.register_forward_hook(leave),
        moe.experts.register_forward_hook(routed),
    ]
