"""Hooks on the Megatron model: every probe that a chunk computes is handed to the recorder as it appears."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from torch.utils.hooks import RemovableHandle

from validation.candidate import indexer, joined_latents
from validation.candidate.dispatched import Dispatched, Rows, rows_of
from validation.candidate.fused_router import seen_fused
from validation.candidate.isolation import View, in_place_of
from validation.candidate.mtp import MtpLosses
from validation.candidate.overlapped import Plans, overlaps
from validation.candidate.place import Place
from validation.candidate.recorder import Recorder
from validation.candidate.replay import Choices
from validation.candidate.versions import COMBINE, mtp_block, seen_unpermute
from validation.case.case import Case
from validation.case.data import ARE_PACKED
from validation.case.joined_latents import with_norm
from validation.case.probes import Probe, probes
from validation.compare.observe import Router
from validation.compare.precision import LOSS_DTYPES, as_stored
from validation.compare.substitute import substituted
from validation.reference.sources import Weights
from validation.reference.store import Reference


def first_of(output: Any) -> torch.Tensor:
    """What a module returns, its bias aside."""
    found: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return found


def with_first(output: Any, tensor: torch.Tensor) -> Any:
    """What a module returns with another tensor in the first place."""
    if isinstance(output, list):
        return [tensor, *output[1:]]
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor


PROBE_GRADIENTS = "probe_gradients/"
"""What precedes a probe's name in a report: its value and its gradient are two tensors."""


class ProbedChunk:
    """One model chunk under observation.

    Megatron's tensors are [sequence, batch, ...]; probes are [batch, sequence, ...]. A value counts only while the chunk's
    own forward runs; where that keeps no graph (activation recompute), the gradient is taken when the backward pass runs
    the module again, whose micro-batches come in the order of the forward passes. Megatron divides the gradients of
    parameters at the end; `divisor` makes those that pass a probe comparable before that. Without `values` only gradients are
    compared. `weights` are the reference's.

    In an isolated case every tensor and every gradient that has been compared is replaced by the reference's.
    """

    def __init__(
        self,
        chunk: GPTModel,
        case: Case,
        recorder: Recorder,
        reference: Reference,
        weights: Weights,
        divisor: float,
        values: bool = True,
    ) -> None:
        self._values = values
        self._case, self._recorder, self._reference, self._divisor = case, recorder, reference, divisor
        self._waiting: dict[str, deque[int]] = defaultdict(deque)
        self._stopped = False
        self._place = Place.here(case)
        self._choices = Choices(case, self._place, recorder, reference, weights)
        self._keys = indexer.Keys(case, self._place, recorder, reference)
        self._probes = probes(case.model, case.batch_size, case.seq_length)
        self._micro_batch, self._running = -1, False
        self._calls: Counter[Any] = Counter()
        # Then experts are filled up to their capacity with further tokens, each with the weight 0, a constant. A plugin may
        # have said so.
        self._padded = bool(chunk.config.moe_pad_expert_input_to_capacity)
        self._mtp_losses = MtpLosses(divisor)
        self._plans = Plans(chunk, self._planned, self._at) if overlaps(case) else None
        self._of_layers: list[RemovableHandle] = []
        chunk.register_forward_pre_hook(self._enter)
        every = [f"layers.{layer}.mtp" for layer in case.model.mtp_layers]
        mtp = every if chunk.mtp_process else []
        if chunk.pre_process or mtp:
            embeddings = ["embedding"] if chunk.pre_process else []
            chunk.embedding.register_forward_hook(self._outputs([*embeddings, *(f"{prefix}.embedding" for prefix in mtp)]))
        for layer in chunk.decoder.layers:
            self._watch_layer(layer, f"layers.{layer.layer_number - 1}")
        if chunk.decoder.final_layernorm is not None:
            chunk.decoder.final_layernorm.register_forward_hook(self._output("final_norm"))
        if chunk.post_process:
            # The output head and the loss of MTP layers are with those of the main model, wherever the layers are.
            chunk.output_layer.register_forward_hook(self._outputs([*(f"{prefix}.logits" for prefix in every), "logits"]))
            self._watch_mtp_losses(chunk, every)
            chunk.register_forward_hook(self._token_loss)
            if self._plans is not None:
                self._plans.watch_losses(chunk, lambda losses: self._token_loss(chunk, (), losses))
        if mtp:
            self._watch_mtp(chunk, mtp)
        chunk.register_forward_hook(self._leave)

    def begin(self, step: int) -> None:
        """Before the forward passes of a later step, counted from 1: routers go on with the reference's choices of that step.

        With 0 they go on with their own.
        """
        self._micro_batch = -1
        self._choices.step = self._keys.step = step

    def let_go_of_layers(self) -> None:
        """Have no hook on a whole layer any more: Transformer Engine makes a CUDA graph of none that has one."""
        for handle in self._of_layers:
            handle.remove()

    def be_silent(self) -> None:
        """Record nothing; routers still go on with the reference's choices."""
        self._stopped = True

    def stop(self) -> None:
        """After the backward pass: compare what is known only then, and record nothing more."""
        self.be_silent()
        for name, total in self._mtp_losses.totals().items():
            self._recorder.compare(name, total, (), self._reference.probes, dtype=LOSS_DTYPES[self._case.precision])

    def _enter(self, module: Any, arguments: Any) -> None:
        self._micro_batch, self._running = self._micro_batch + 1, True
        self._calls.clear()

    def _planned(self) -> int:
        """Of schedules of parts: the next micro-batch, which is computed bit by bit."""
        self._enter(None, ())
        self._running = False
        return self._micro_batch

    def _at(self, micro_batch: int | None) -> None:
        """A part of this micro-batch computes forward, or none does."""
        self._running = micro_batch is not None
        self._micro_batch = self._micro_batch if micro_batch is None else micro_batch

    def _leave(self, module: Any, arguments: Any, output: Any) -> None:
        self._running = False

    def _token_loss(self, module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output if self._stopped else self._keep(self._probes["token_loss"], output, lambda tensor: tensor)

    def _record(
        self, name: str, tensor: torch.Tensor, size: torch.Size | None = None, counting: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Record a tensor of shape [sequence, batch, ...]; heads may still be joined with their elements.

        `size` is that shape where sequence and batch are joined in the tensor. The gradient is compared where `counting` says,
        of the tensor's own shape, and elsewhere it must not matter. Returns what the model is to go on with.
        """
        if self._stopped or not (self._running or self._waiting[name]):
            return tensor
        probe = self._probes[name]

        def batch_first(tensor: torch.Tensor) -> torch.Tensor:
            tensor = self._with_batch(tensor if size is None else tensor.view(size)).transpose(0, 1)
            joined = probe.axes[-1] == "head_dim" and tensor.dim() == 3
            if probe.axes[-1] == "head_dim" and self._case.training.data_shape in ARE_PACKED:
                # Since 0.18 the values of packed sequences get as many elements as queries have, until behind attention.
                heads = probe.shape[-2] // self._case.layout.tp
                return (tensor.unflatten(-1, (heads, -1)) if joined else tensor)[..., : probe.shape[-1]]
            return tensor.unflatten(-1, (-1, probe.shape[-1])) if joined else tensor

        return self._keep(probe, tensor, batch_first, counting)

    def _with_batch(self, tensor: torch.Tensor) -> torch.Tensor:
        """Packed sequences go through core attention without a batch: [sequence, heads, ...] or [sequence, columns]."""
        there = self._case.training.data_shape not in ARE_PACKED or (tensor.dim() > 2 and tensor.shape[1] == 1)
        return tensor if there else tensor.unsqueeze(1)

    def _keep(self, probe: Probe, tensor: torch.Tensor, view: View, counting: torch.Tensor | None = None) -> torch.Tensor:
        """Compare what `view` makes of the tensor, and later of the gradient that reaches it.

        Returns what the model is to go on with.
        """
        waiting = self._waiting[probe.name]
        if not self._running and not waiting:  # no pass of the schedule's: a CUDA graph warms up, or records
            return tensor
        if not self._running and not torch.is_grad_enabled():  # recomputation in recomputation: the inner one comes after
            return self._isolated(probe, tensor, view, waiting[0])
        micro_batch = self._micro_batch if self._running else waiting.popleft()
        if self._running:
            if self._values:
                self._compare_value(probe, view(tensor.detach()), micro_batch)
            if probe.has_gradient and not torch.is_grad_enabled():
                waiting.append(micro_batch)
                return self._isolated(probe, tensor, view, micro_batch)
        if not (probe.has_gradient and tensor.requires_grad):
            return tensor
        tensor = self._isolated(probe, tensor, view, micro_batch)

        def compare_gradient(gradient: torch.Tensor) -> torch.Tensor | None:
            name = f"{PROBE_GRADIENTS}{probe.name}"
            with as_stored():
                # In float64, or dividing would round what is to be compared.
                counted = gradient.detach() if counting is None else gradient.detach() * counting
                scaled = view(counted).to(torch.float64) / self._divisor
                for box, part in self._place.pieces(probe, scaled, micro_batch):
                    self._recorder.compare(
                        name, part, box, self._reference.probe_gradients, key=probe.name, dtype=gradient.dtype
                    )
            return self._gradient_isolated(probe, gradient, view, micro_batch)

        tensor.register_hook(compare_gradient)
        return tensor

    def _compare_value(self, probe: Probe, tensor: torch.Tensor, micro_batch: int) -> None:
        with as_stored():
            for box, part in self._place.pieces(probe, self._place.of_words(probe, tensor), micro_batch):
                self._recorder.compare(probe.name, part, box, self._reference.probes)

    def _isolated(self, probe: Probe, tensor: torch.Tensor, view: View, micro_batch: int) -> torch.Tensor:
        """The tensor, in an isolated case with the reference's numbers."""
        if not (self._case.isolated and probe.has_gradient):
            return tensor
        where = (probe, micro_batch, self._place, self._recorder, self._reference.probes)
        return substituted(tensor, in_place_of(tensor, view, *where))

    def _gradient_isolated(self, probe: Probe, gradient: torch.Tensor, view: View, micro_batch: int) -> torch.Tensor | None:
        """What flows on in place of a gradient in an isolated case; None for the gradient itself."""
        if not self._case.isolated:
            return None
        where = (probe, micro_batch, self._place, self._recorder, self._reference.probe_gradients)
        return in_place_of(gradient, view, *where, scale=self._divisor)

    def _output(self, name: str) -> Callable[..., Any]:
        """Of a module. A norm of `fused_residual_rmsnorm` hands its hooks on to what it computes with, which calls them first,
        with nothing.
        """

        def hook(module: Any, arguments: Any, output: Any) -> Any:
            if output is None:
                return None
            return with_first(output, self._record(name, first_of(output)))

        return hook

    def _outputs(self, names: list[str]) -> Callable[..., Any]:
        """The same for a module that several parts of the model call in turn, in each forward pass."""

        def hook(module: Any, arguments: Any, output: Any) -> Any:
            if not self._running:
                return output
            self._calls[module] += 1
            return with_first(output, self._record(names[self._calls[module] - 1], first_of(output)))

        return hook

    def _input(self, *names: str) -> Callable[..., Any]:
        def hook(module: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
            given = list(arguments or keywords.values())
            given[: len(names)] = [self._record(name, tensor) for name, tensor in zip(names, given, strict=False)]
            return (tuple(given), keywords) if arguments else (arguments, dict(zip(keywords, given, strict=True)))

        return hook

    def _watch_mtp(self, chunk: GPTModel, prefixes: list[str]) -> None:
        """The MTP layers."""
        for layer, prefix in zip(chunk.mtp.layers, prefixes, strict=True):
            outputs = {
                "embedding_norm": layer.enorm,
                "hidden_norm": layer.hnorm,
                "projection": layer.eh_proj,
                "final_norm": layer.final_layernorm,
            }
            for kind, module in outputs.items():
                module.register_forward_hook(self._output(f"{prefix}.{kind}"))
            self._watch_layer(mtp_block(layer), prefix.removesuffix(".mtp"))

    def _watch_mtp_losses(self, chunk: GPTModel, prefixes: list[str]) -> None:
        """The first calls of the loss function, which are those of MTP layers; the last is the main model's."""
        compute = chunk.compute_language_model_loss

        def seen_losses(*args: Any, **kwargs: Any) -> torch.Tensor:
            losses: torch.Tensor = compute(*args, **kwargs)
            if self._running and not self._stopped and self._calls[compute] < len(prefixes):
                prefix = prefixes[self._calls[compute]]
                losses = self._keep(self._probes[f"{prefix}.token_loss"], losses, lambda tensor: tensor)
                self._mtp_losses.watch(f"{prefix}.loss", losses)
            self._calls[compute] += 1
            return losses

        chunk.compute_language_model_loss = seen_losses

    def _watch_layer(self, layer: Any, prefix: str) -> None:
        attention = layer.self_attention
        outputs = {
            "attention.core": attention.core_attention,
            "attention.output": attention.linear_proj,
            "output": layer,
        }
        if not with_norm(self._case):
            outputs["input_norm"] = layer.input_layernorm
        if joined_latents.has(attention):
            latents = [f"{prefix}.attention.{part}" for part in ("q_latent", "kv_latent")]
            joined_latents.watch(attention, lambda *made: tuple(map(self._record, latents, made)))
        else:
            outputs["attention.kv_latent"] = attention.linear_kv_down_proj
            if self._case.model.q_lora_rank is not None:
                outputs["attention.q_latent"] = attention.linear_q_down_proj
        dense = f"{prefix}.mlp.output" in self._probes
        if not dense and not hasattr(layer.mlp, "router"):
            raise ValueError(f"{prefix} of Megatron's model has no router, and HuggingFace's has experts there")
        if not (dense and self._case.uses_te):
            outputs["mlp_norm"] = layer.pre_mlp_layernorm
        outputs["mlp.output" if dense else "moe.output"] = layer.mlp
        for kind, module in outputs.items():
            handle = module.register_forward_hook(self._output(f"{prefix}.{kind}"))
            if module is layer:
                self._of_layers.append(handle)
        if self._case.model.sparse:
            entered = functools.partial(self._keys.entered, lambda: self._micro_batch if self._running else None)
            indexer.watch(attention, prefix, self._record, entered, self._choose_keys)
        else:
            given = self._input(*(f"{prefix}.attention.{part}" for part in ("query", "key", "value")))
            attention.core_attention.register_forward_pre_hook(given, with_kwargs=True)
        # The norm that would follow is recomputed on a copy, which half of the gradient passes by; this one is none.
        residual = self._input(f"{prefix}.attention.residual")
        layer.pre_cross_attn_layernorm.register_forward_pre_hook(residual, with_kwargs=True)
        if self._plans is not None:
            self._plans.watch_layer(layer, f"{prefix}.output", "" if dense else f"{prefix}.moe.output", self._record)
        if not dense:
            self._watch_experts(layer.mlp, f"{prefix}.moe")

    def _choose_keys(self, layer: int, micro_batch: int, scores: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """What an indexer goes on with where its own choice is `indices`; both are compared."""
        prefix = f"layers.{layer}.indexer"
        seen, own = indexer.as_probes(scores, indices)
        for kind, tensor in (("scores", seen), ("keys", own)):
            self._record(f"{prefix}.{kind}", tensor.transpose(0, 1))
        if self._running and self._values and not self._stopped:
            self._keys.compare_margins(self._probes[f"{prefix}.keys"], own, micro_batch)
        replayed = self._keys.replayed(layer, micro_batch)
        return indices if replayed is None else replayed

    def _watch_experts(self, moe: Any, prefix: str) -> None:
        """The router's logits and scores and the combined routed output appear between modules: in methods."""
        router, dispatcher = moe.router, moe.token_dispatcher
        # Then the dispatcher computes the shared expert, and adds it to the routed output in place.
        overlapped = moe.use_shared_expert and moe.shared_expert_overlap
        rows = self._watch_rows(moe, prefix) if self._case.isolated else None
        gating, routing, combine = router.gating, router.routing, getattr(dispatcher, COMBINE)
        sizes: list[torch.Size] = []

        def seen_gating(*args: Any, **kwargs: Any) -> Any:
            logits = gating(*args, **kwargs)
            sizes.append(logits.shape)
            return self._record(f"{prefix}.router.logits", logits)

        def seen_routing(*args: Any, **kwargs: Any) -> Any:
            size = sizes.pop()

            choice = self._choices.next(prefix, self._micro_batch if self._running else None)
            bias = self._choices.bias_before(router)

            def seen_scores(scores: torch.Tensor) -> torch.Tensor:
                choice.scores = self._record(f"{prefix}.router.scores", scores, size)
                return choice.scores

            with Router(size[-1], seen_scores, choice.choose), seen_fused(choice.choose):
                weights, chosen = routing(*args, **kwargs)
            counting = self._without_padding(weights, chosen)
            weights = self._record(f"{prefix}.router.weights", weights, size, counting if self._padded else None)
            own = choice.compared(counting)
            self._record(f"{prefix}.router.experts", own, size)
            if rows is not None and choice.micro_batch is not None and not self._stopped:
                rows.append(rows_of(moe, self._place, choice.micro_batch, chosen, self._case.training.dispatcher))
            probe = self._probes[f"{prefix}.router.experts"]
            if self._running and self._stopped:
                self._choices.compare_with_bias(probe, choice, bias, size, self._micro_batch)
            elif self._running and self._values:
                self._choices.compare_margins(probe, own.view(size), self._micro_batch)
                self._choices.compare_with_scores(probe, choice, size, self._micro_batch)
            return weights, chosen

        def seen_routed(tensor: torch.Tensor) -> torch.Tensor:
            return self._record(f"{prefix}.routed", tensor, dispatcher.hidden_shape)

        def seen_combine(*args: Any, **kwargs: Any) -> Any:
            if overlapped:
                with seen_unpermute(dispatcher, seen_routed):
                    return combine(*args, **kwargs)
            output = combine(*args, **kwargs)
            return with_first(output, self._record(f"{prefix}.routed", first_of(output)))

        router.gating, router.routing = seen_gating, seen_routing
        setattr(dispatcher, COMBINE, seen_combine)
        if overlapped:
            made = moe.shared_experts.get_output
            moe.shared_experts.get_output = lambda: self._record(f"{prefix}.shared_expert", made())
        elif moe.use_shared_expert:
            moe.shared_experts.register_forward_hook(self._output(f"{prefix}.shared_expert"))

    def _without_padding(self, weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The choices that count."""
        return chosen & (weights.detach().view_as(chosen) != 0) if self._padded else chosen

    def _watch_rows(self, moe: Any, prefix: str) -> list[Rows]:
        """In isolated cases: what the experts are given and what they return; the list takes the rows of their next call."""
        coming: list[Rows] = []
        routed = self._probes[f"{prefix}.routed"]
        dispatched = Dispatched(routed, self._recorder, self._reference, self._divisor)

        def record(kind: str, rows: Rows, tensor: torch.Tensor) -> torch.Tensor:
            given = tensor.requires_grad
            tensor = substituted(tensor, dispatched.forward(kind, rows, tensor, self._running))
            if given:
                tensor.register_hook(lambda gradient: dispatched.backward(kind, rows, gradient))
            return tensor

        def entering(module: Any, arguments: Any) -> Any:
            return (record("dispatched", coming[0], arguments[0]), *arguments[1:]) if coming else None

        def leaving(module: Any, arguments: Any, output: Any) -> Any:
            return with_first(output, record("experts", coming.pop(), first_of(output))) if coming else None

        moe.experts.register_forward_pre_hook(entering)
        moe.experts.register_forward_hook(leaving)
        return coming
