"""Recording every probe of the HuggingFace model, forward and gradient."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.depth import FORWARD
from validation.case.model import Model
from validation.compare.observe import Router
from validation.compare.substitute import substituted
from validation.reference import loss, sparse, sums
from validation.reference import model as reference_model
from validation.reference.batch import Batch
from validation.reference.routing import Routing

View = Callable[[torch.Tensor], torch.Tensor]


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@dataclass(frozen=True)
class Shown:
    """How a tensor is shown as a probe: `view` gives it the probe's axes, of which the first `positions` are the probe.

    `back` undoes `view`, where that makes another tensor. Without `positions` the probe has all of them.
    """

    view: View = _same
    back: View | None = None
    positions: int | None = None

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The probe of a tensor."""
        return self._cut(self.view(tensor))

    def put(self, truth: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """A copy of `like` whose probe is `truth`. Positions that are not in the probe stay as they are."""
        made = like.detach().clone()
        whole = self.view(made)
        self._cut(whole).copy_(truth)
        return made if self.back is None else self.back(whole).to(like)

    def _cut(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.positions is None else tensor[:, : self.positions]


@dataclass(frozen=True)
class Isolation:
    """What every module is given in place of what came before it: the truth's tensors, and its gradients times `scale`.

    `move` makes of a tensor in the run's dtype what a module gets of it.
    """

    forward: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]
    scale: float = 1.0
    move: View = _same

    def value(self, name: str, like: torch.Tensor, shown: Shown | None = None) -> torch.Tensor:
        """The truth's tensor in the place of `like`, whose probe `shown` shows."""
        return self.move((shown or Shown()).put(self.forward[name], like))

    def gradient(self, name: str, like: torch.Tensor, shown: Shown | None = None) -> torch.Tensor:
        """The same for the gradient that reaches it."""
        return self.move((shown or Shown()).put(self.gradients[name] * self.scale, like))


class Recording:
    """The probes of one step by name: `forward` after the forward pass, `gradients` after the backward pass.

    With `replay` the routers go on with those choices; what is recorded is what they would have chosen. With `isolation`
    every module goes on with the truth's tensors; what is recorded is what it was about to hand on. What is kept lies in host
    memory, or where it was with `in_place`; without `values` only gradients are kept.
    """

    def __init__(
        self,
        replay: Routing | None = None,
        isolation: Isolation | None = None,
        in_place: bool = False,
        values: bool = True,
    ) -> None:
        self.forward: dict[str, torch.Tensor] = {}
        self.gradients: dict[str, torch.Tensor] = {}
        self.replay, self.isolation = replay, isolation
        self.latents: dict[Any, torch.Tensor] = {}
        """Normed KV latents by the attention that has made them, of sparse attention."""
        self._in_place, self._values = in_place, values
        self._positions: int | None = None

    def of_first(self, positions: int) -> Self:
        """This recording for tensors that have further positions, which are no part of their probes."""
        found = copy.copy(self)
        found._positions = positions
        return found

    def replayed(self, layer: int, experts: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """The experts, [tokens, k], that a layer's router goes on with where its own choice is `experts`.

        `size` is [batch, sequence] of the tokens. At positions that are no part of the probes it is always the own choice.
        """
        if self.replay is None:
            return experts
        found = experts.view(*size, -1).clone()
        found[:, : self._positions] = self.replay[f"{layer}/experts"].to(experts.device)
        return found.flatten(0, 1)

    def keep(self, name: str, tensor: torch.Tensor, view: View = _same, back: View | None = None) -> torch.Tensor:
        """Keep a tensor in the probe's shape, which `view` gives it, and the gradient that reaches it later.

        Returns what the model is to go on with. `back` undoes `view`, where that makes another tensor.
        """
        self.keep_value(name, view(tensor.detach()))
        if not tensor.requires_grad:
            return tensor
        shown = Shown(view, back, self._positions)
        if self.isolation is not None and name in self.isolation.gradients:
            tensor = substituted(tensor, self.isolation.value(name, tensor.detach(), shown))
        self._keep_gradient(name, tensor, shown)
        return tensor

    def look(self, name: str, tensor: torch.Tensor, view: View = _same) -> None:
        """The same for a tensor that has gone its way already: only its gradient can be another."""
        self.keep_value(name, view(tensor.detach()))
        if tensor.requires_grad:
            self._keep_gradient(name, tensor, Shown(view, None, self._positions))

    def _keep_gradient(self, name: str, tensor: torch.Tensor, shown: Shown) -> None:
        def keep(gradient: torch.Tensor) -> torch.Tensor | None:
            self.gradients[name] = self._copy(shown(gradient))
            return None if self.isolation is None else self.isolation.gradient(name, gradient, shown)

        tensor.register_hook(keep)

    def keep_value(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor that no gradient reaches, or not its gradient."""
        if self._values:
            self.forward[name] = self._copy(Shown(positions=self._positions)(tensor))

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(tensor.device if self._in_place else "cpu", copy=True).contiguous()

    def output(self, name: str) -> Callable[..., Any]:
        """A forward hook that keeps what the module returns."""

        def hook(module: Any, arguments: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (self.keep(name, output[0]), *output[1:])
            return self.keep(name, output)

        return hook

    def input(self, name: str) -> Callable[..., None]:
        """A forward pre-hook that keeps what the module is given, and others have, too."""

        def hook(module: Any, arguments: Any) -> None:
            self.look(name, arguments[0])

        return hook

    @contextlib.contextmanager
    def attention(self, prefixes: Mapping[Any, str]) -> Iterator[None]:
        """Within it, what attention modules compute is kept, each under its own prefix."""
        watcher = _Attention(self, prefixes)
        reference_model.on_attention.append(watcher)
        try:
            yield
        finally:
            reference_model.on_attention.remove(watcher)


@dataclass(frozen=True, eq=False)
class _Attention:
    """Keeps what goes into attention and what comes out of it (validation.reference.model.Watcher)."""

    recording: Recording
    prefixes: Mapping[Any, str]

    def given(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        def kept(part: str, tensor: torch.Tensor) -> torch.Tensor:
            name = f"{self.prefixes[module]}.attention.{part}"
            return self.recording.keep(name, tensor, lambda tensor: tensor.transpose(1, 2))

        if module in self.recording.latents:
            latent = self.recording.latents.pop(module)
            made = sparse.absorbed(module, query.detach(), key.detach(), latent)
            for part, tensor in zip(("query", "key"), made, strict=True):
                self.recording.keep_value(f"{self.prefixes[module]}.attention.absorbed_{part}", tensor)
            return query, key, value
        return kept("query", query), kept("key", key), kept("value", value)

    def made(self, module: Any, context: torch.Tensor) -> torch.Tensor:
        return self.recording.keep(f"{self.prefixes[module]}.attention.core", context)


class Unrecorded(Recording):
    """Keeps nothing: for a pass of which the loss alone matters."""

    def keep(self, name: str, tensor: torch.Tensor, view: View = _same, back: View | None = None) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def look(self, name: str, tensor: torch.Tensor, view: View = _same) -> None:
        """Nothing."""

    def keep_value(self, name: str, tensor: torch.Tensor) -> None:
        """Nothing."""


Further = Callable[[torch.Tensor, Recording], torch.Tensor | float]


def record_step(
    hf: DeepseekV3ForCausalLM,
    case: Case,
    batch: Batch,
    progress: Callable[[str], None],
    further: Further | None = None,
    recording: Recording | None = None,
    scale: float = 1.0,
) -> Recording:
    """Forward and backward, every probe of both; gradients are those of `scale` times the loss. A case may end in between.

    The loss is that of the case, and what `further` adds: it gets the output of the final norm and records probes of its
    own. `recording` takes the probes, a new one where none is given.
    """
    model, recording = case.model, recording or Recording()
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
            hidden = hidden_states(hf, batch)
    finally:
        for hook in hooks:
            hook.remove()
    total = record_loss(hf, case, batch, hidden, recording)
    if further is not None:
        total = total + further(hidden, recording)
    if case.upto == FORWARD:
        return recording
    progress("reference backward")
    sums.backward(total * scale)
    return recording


def hidden_states(hf: DeepseekV3ForCausalLM, batch: Batch) -> torch.Tensor:
    """The output of the final norm, [batch, sequence, hidden]."""
    found: torch.Tensor = hf.model(input_ids=batch.tokens, **beside_tokens(batch)).last_hidden_state
    return found


def beside_tokens(batch: Batch) -> dict[str, Any]:
    """What transformers' model is given beside tokens or embeddings: what a position attends to, and positions.

    Unless the batch has its own positions, they are counted through the sequence, as megatron-core's rotary embedding counts
    them whatever position_ids it is given. Attention depends on differences of positions alone: within a document it is what
    the document by itself makes.
    """
    return {"attention_mask": batch.attended, "position_ids": batch.positions, "use_cache": False}


def record_loss(
    hf: DeepseekV3ForCausalLM, case: Case, batch: Batch, hidden: torch.Tensor, recording: Recording
) -> torch.Tensor:
    """The step's loss from the output of the final norm, and the probes on the way there."""
    logits = recording.keep("logits", loss.of_words(case, hf.lm_head(hidden)))
    logits = loss.of_words(case, logits, -math.inf)
    token_losses = recording.keep("token_loss", loss.token_losses(logits, batch.labels))
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
    if model.sparse:
        hooks += sparse.hooks(attention, model, index, recording)
    if index in model.expert_blocks:
        hooks += _router_hooks(layer.mlp, index, batch, recording)
    return hooks


def _router_hooks(moe: Any, layer: int, batch: Batch, recording: Recording) -> list[Any]:
    size, prefix = batch.tokens.shape, f"layers.{layer}.moe"
    modes: list[Router] = []
    own: list[torch.Tensor] = []

    def by_token(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(*size, -1)

    def seen_scores(scores: torch.Tensor) -> torch.Tensor:
        return recording.keep(f"{prefix}.router.scores", scores, by_token)

    def choose(experts: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        own.append(experts)
        return recording.replayed(layer, experts, size)

    def enter(module: Any, arguments: Any) -> None:
        modes.append(Router(module.num_experts, seen_scores, choose))
        modes[-1].__enter__()

    def leave(module: Any, arguments: Any, output: Any) -> Any:
        modes.pop().__exit__(None, None, None)
        logits, weights, experts = output

        def by_expert(tensor: torch.Tensor, chosen: torch.Tensor = experts) -> torch.Tensor:
            return by_token(tensor.new_zeros(logits.shape).scatter(1, chosen, tensor))

        def of_chosen(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.flatten(0, 1).gather(1, experts)

        recording.look(f"{prefix}.router.logits", logits, by_token)
        weights = recording.keep(f"{prefix}.router.weights", weights, by_expert, of_chosen)
        chosen = own.pop()
        recording.keep_value(f"{prefix}.router.experts", by_expert(torch.ones_like(chosen, dtype=torch.bool), chosen))
        return logits, weights, experts

    def routed(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return recording.keep(f"{prefix}.routed", output, by_token)

    return [
        moe.gate.register_forward_pre_hook(enter),
        moe.gate.register_forward_hook(leave),
        moe.experts.register_forward_hook(routed),
    ]
