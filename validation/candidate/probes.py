"""Hooks on the Megatron model: every probe that a chunk computes is handed to the recorder as it appears."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel

from validation.candidate.place import Place
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.probes import Probe, probes
from validation.compare.observe import SIGMOID, Observed


class ProbedChunk:
    """One model chunk under observation.

    Megatron's tensors are [sequence, batch, ...]; probes are [batch, sequence, ...]. What a hook sees counts only while
    the chunk's own forward runs, so that recomputation in the backward pass is not recorded again.
    """

    def __init__(self, chunk: GPTModel, case: Case, recorder: Recorder, reference: Path) -> None:
        self._case, self._recorder, self._reference = case, recorder, reference
        self._place = Place.here(case)
        self._probes = probes(case.model, case.batch_size, case.seq_length)
        self._micro_batch, self._running = -1, False
        chunk.register_forward_pre_hook(self._enter)
        chunk.register_forward_hook(self._leave)
        if chunk.pre_process:
            chunk.embedding.register_forward_hook(self._output("embedding"))
        for layer in chunk.decoder.layers:
            self._watch_layer(layer, f"layers.{layer.layer_number - 1}")
        if chunk.decoder.final_layernorm is not None:
            chunk.decoder.final_layernorm.register_forward_hook(self._output("final_norm"))
        if chunk.post_process:
            chunk.output_layer.register_forward_hook(self._output("logits"))
            chunk.register_forward_hook(self._token_loss)

    def _enter(self, module: Any, arguments: Any) -> None:
        self._micro_batch, self._running = self._micro_batch + 1, True

    def _leave(self, module: Any, arguments: Any, output: Any) -> None:
        self._running = False

    def _token_loss(self, module: Any, arguments: Any, output: torch.Tensor) -> None:
        self._compare(self._probes["token_loss"], output)

    def _record(self, name: str, tensor: torch.Tensor) -> None:
        """Record a tensor of shape [sequence, batch, ...]; heads may still be joined with their elements."""
        if not self._running:
            return
        probe = self._probes[name]
        tensor = tensor.detach().transpose(0, 1)
        if probe.axes[-1] == "head_dim" and tensor.dim() == 3:
            tensor = tensor.unflatten(-1, (-1, probe.shape[-1]))
        self._compare(probe, tensor)

    def _compare(self, probe: Probe, tensor: torch.Tensor) -> None:
        for box, part in self._place.pieces(probe, tensor, self._micro_batch):
            self._recorder.compare(probe.name, part, box, self._reference)

    def _output(self, name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            self._record(name, output[0] if isinstance(output, tuple) else output)

        return hook

    def _input(self, *names: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            given = arguments or tuple(keywords.values())
            for name, tensor in zip(names, given, strict=False):
                self._record(name, tensor)

        return hook

    def _watch_layer(self, layer: Any, prefix: str) -> None:
        attention = layer.self_attention
        parts = ("query", "key", "value")
        outputs = {
            "input_norm": layer.input_layernorm,
            "attention.kv_latent": attention.linear_kv_down_proj,
            "attention.core": attention.core_attention,
            "attention.output": attention.linear_proj,
            "output": layer,
        }
        if self._case.model.q_lora_rank is not None:
            outputs["attention.q_latent"] = attention.linear_q_down_proj
        dense = f"{prefix}.mlp.output" in self._probes
        if not (dense and self._case.implementation == "te"):
            outputs["mlp_norm"] = layer.pre_mlp_layernorm
        outputs["mlp.output" if dense else "moe.output"] = layer.mlp
        for kind, module in outputs.items():
            module.register_forward_hook(self._output(f"{prefix}.{kind}"))
        attention.core_attention.register_forward_pre_hook(
            self._input(*(f"{prefix}.attention.{part}" for part in parts)), with_kwargs=True
        )
        layer.pre_mlp_layernorm.register_forward_pre_hook(self._input(f"{prefix}.attention.residual"), with_kwargs=True)
        if not dense:
            self._watch_experts(layer.mlp, f"{prefix}.moe")

    def _watch_experts(self, moe: Any, prefix: str) -> None:
        """The router's logits and scores and the combined routed output appear between modules: in methods."""
        router, dispatcher = moe.router, moe.token_dispatcher
        gating, routing, combine = router.gating, router.routing, dispatcher.combine_postprocess
        sizes: list[torch.Size] = []

        def tokens_apart(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.view(*sizes[-1][:2], -1)

        def seen_gating(*args: Any, **kwargs: Any) -> Any:
            logits = gating(*args, **kwargs)
            sizes.append(logits.shape)
            self._record(f"{prefix}.router.logits", logits)
            return logits

        def seen_routing(*args: Any, **kwargs: Any) -> Any:
            with Observed(SIGMOID, lambda scores: self._record(f"{prefix}.router.scores", tokens_apart(scores))):
                weights, chosen = routing(*args, **kwargs)
            self._record(f"{prefix}.router.weights", tokens_apart(weights))
            self._record(f"{prefix}.router.experts", tokens_apart(chosen))
            sizes.pop()
            return weights, chosen

        def seen_combine(*args: Any, **kwargs: Any) -> Any:
            output = combine(*args, **kwargs)
            self._record(f"{prefix}.routed", output)
            return output

        router.gating, router.routing, dispatcher.combine_postprocess = seen_gating, seen_routing, seen_combine
        if moe.use_shared_expert:
            moe.shared_experts.register_forward_hook(self._output(f"{prefix}.shared_expert"))
