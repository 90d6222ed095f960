"""Known upstream bugs, taken out of a rank: what the second run of a case with known bugs computes with.

An excuse has a size. A check that a bug of `validation/run/known.yaml` excuses is judged by a run of the same case from which
the bug has been taken out: only if it passes there is the difference the bug's, and nothing hides behind it. One entry a bug,
by its id; each has its cause and its measurements on the bug's page in docs/findings. An entry takes out exactly its bug: it
undoes what the bug does, or changes a value only where the value is the one that the bug leaves. What is wrong in another way
stays wrong.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.moe.router import TopKRouter

from validation.candidate import build, joined_latents, mended_mtp, mended_steps, mended_switches
from validation.candidate.mended_mtp import everywhere
from validation.candidate.step import counted
from validation.case.case import Case

Plugin = Any
"""validation.run.plugin.Plugin, which lies in a room above."""
Chunks = list[Any]


def _nothing(*given: Any) -> None:
    """What an entry leaves out."""


Tokens = Callable[[], int]
"""Says how many tokens count in the loss of the step that is being computed, over all ranks."""


@dataclass(frozen=True)
class Mend:
    """How a bug is taken out of a rank: `install` once, before the model is built; from each chunk of it, `built` as soon as it
    is built, and `wrapped` when every probe is in place.
    """

    install: Callable[[Case, Tokens], None] = _nothing
    built: Callable[[Case, Any], None] = _nothing
    wrapped: Callable[[Case, Any], None] = _nothing


def with_mends(case: Case, batch: Path, plugin: Plugin) -> Plugin:
    """The plugin of a rank that also takes out the bugs that `case.mended` names, before the plugin sees the model.

    `batch` is the file of the case's tokens. Raises KeyError for a bug without an entry.
    """
    if not case.mended:
        return plugin
    mends, taken = [MENDS[name] for name in case.mended], [0]
    for mend in mends:
        mend.install(case, lambda: counted(batch, taken[0]))

    def built(case: Case, chunks: Chunks) -> None:
        for mend in mends:
            for chunk in chunks:
                mend.built(case, chunk)
        plugin.built(case, chunks)

    def wrapped(case: Case, chunks: Chunks) -> None:
        for mend in mends:
            for chunk in chunks:
                mend.wrapped(case, chunk)
        plugin.wrapped(case, chunks)

    def stepped(case: Case, chunks: Chunks, step: int) -> None:
        taken[0] = step
        plugin.stepped(case, chunks, step)

    return replace(plugin, built=built, wrapped=wrapped, stepped=stepped)


def _experts_reduced_over_their_holders(case: Case, chunk: Any) -> None:
    """Expert gradients go to the buffers of expert parallelism, which are reduced over the ranks that hold the expert."""
    for name, weight in chunk.named_parameters():
        if ".experts." in name and getattr(weight, "allreduce", True):
            weight.allreduce = False


class _RotaryColumnsSummed(torch.autograd.Function):
    """Hands a latent [..., kv_lora_rank + rotary dimensions] on, and sums the rotary columns of its gradient over the
    tensor-parallel ranks. What stands before it sees the sum, a probe's gradient and an isolated module's among it.
    """

    @staticmethod
    def forward(context: Any, latent: torch.Tensor, rank: int) -> torch.Tensor:
        context.rank = rank
        return latent.view_as(latent)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        rotary = gradient[..., context.rank :].contiguous()
        dist.all_reduce(rotary, group=parallel_state.get_tensor_model_parallel_group())
        return torch.cat([gradient[..., : context.rank], rotary], dim=-1), None


def _gathered_rotary_key_summed(case: Case, tokens: Tokens) -> None:
    """Behind column-parallel down-projections: the gradient at the gathered latent, whose backward pass only splits it."""
    names = vars(importlib.import_module("megatron.core.transformer.multi_latent_attention"))
    gather = names["gather_from_tensor_model_parallel_region"]

    def gathered(part: torch.Tensor, *rest: Any, **keywords: Any) -> torch.Tensor:
        whole: torch.Tensor = gather(part, *rest, **keywords)
        return _RotaryColumnsSummed.apply(whole, case.model.kv_lora_rank) if getattr(part, _LATENT, False) else whole

    names["gather_from_tensor_model_parallel_region"] = gathered


_LATENT = "plumbline_kv_latent"
"""Marks what a KV down-projection has returned: the query's goes through the same gather."""


def _latent_marked(case: Case, chunk: Any) -> None:
    def mark(module: Any, given: Any, output: Any) -> None:
        setattr(output[0], _LATENT, True)

    for projection in _kv_down_projections(chunk):
        projection.register_forward_hook(mark)

    def marked(query: torch.Tensor, latent: torch.Tensor) -> joined_latents.Latents:
        setattr(latent, _LATENT, True)
        return query, latent

    for attention in filter(joined_latents.has, _attentions(chunk)):
        joined_latents.watch(attention, marked)


def _whole_rotary_key_summed(case: Case, chunk: Any) -> None:
    """Without sequence parallelism: the gradient at the output of a down-projection that every rank holds whole."""
    rank, whole = case.model.kv_lora_rank, case.model.kv_lora_rank + case.model.qk_rope_head_dim

    def summed(module: Any, given: Any, output: Any) -> Any:
        if output[0].shape[-1] != whole:
            return None
        return (_RotaryColumnsSummed.apply(output[0], rank), *output[1:])

    for projection in _kv_down_projections(chunk):
        projection.register_forward_hook(summed)


def _query_norms_summed_once(case: Case, tokens: Tokens) -> None:
    """finalize_model_grads adds up over tp ranks a gradient that each of them has whole: it is divided by their number."""
    finalize = vars(build)["finalize_model_grads"]

    def finalized(model: Any, *rest: Any, **keywords: Any) -> None:
        finalize(model, *rest, **keywords)
        for chunk in model:
            for name, weight in chunk.named_parameters():
                if name.endswith("self_attention.q_layernorm.weight"):
                    weight.main_grad /= case.layout.tp

    vars(build)["finalize_model_grads"] = finalized


def _no_unused_output_weight(case: Case, chunk: Any) -> None:
    """The output layer multiplies with the stage's copy of the embedding and needs no weight of its own."""
    output = getattr(chunk, "output_layer", None)
    if output is not None and output.weight is not None and output.weight is not chunk.shared_embedding_or_output_weight():
        output.register_parameter("weight", None)


def _softmax_scaled_by_mscale_all_dim(case: Case, tokens: Tokens) -> None:
    names = vars(importlib.import_module("megatron.core.transformer.multi_latent_attention"))
    sound = names["_yarn_get_mscale"]
    model = case.model
    names["_yarn_get_mscale"] = lambda scale, mscale: sound(scale, model.mscale_all_dim if mscale == model.mscale else mscale)


def _balancing_times(factor: Callable[[Case, Tokens], float]) -> Callable[[Case, Tokens], None]:
    """What sends a balancing loss back, multiplied by a factor of the step; a z-loss beside another has its own."""

    def install(case: Case, tokens: Tokens) -> None:
        scaler: Any = vars(importlib.import_module("megatron.core.transformer.moe.moe_utils"))["MoEAuxLossAutoScaler"]
        sound, z_loss = scaler.apply, TopKRouter.apply_z_loss
        sent = [case]

        def of_z_loss(router: Any, *given: Any, **named: Any) -> Any:
            sent.append(replace(case, training=replace(case.training, balancing="z_loss")))
            try:
                return z_loss(router, *given, **named)
            finally:
                sent.pop()

        TopKRouter.apply_z_loss = of_z_loss
        scaler.apply = staticmethod(lambda output, loss: sound(output, loss * factor(sent[-1], tokens)))

    return install


def _counted_share(case: Case, tokens: Tokens) -> float:
    """The share of the step's tokens that the loss mask leaves (docs/findings/balancing-losses-of-masked-tokens.md)."""
    return tokens() / (case.batch_size * case.seq_length)


def _lost_per_token(case: Case, tokens: Tokens) -> float:
    """The inverse of what a loss per token leaves of a balancing loss (docs/findings/balancing-losses-per-token.md)."""
    found = case.layout.tp * case.layout.cp * _counted_share(case, tokens)
    # Since 0.16 the router multiplies by the tokens of one sequence, and not by all that its rank sees.
    attach = getattr(TopKRouter, "attach_and_log_load_balancing_loss", None)
    of_one = attach is not None and "valid_token_count" in inspect.signature(attach).parameters
    return found * (case.micro_batch_size if of_one and case.training.balancing == "seq_aux_loss" else 1)


def _mtp_targets_counted_over_context_ranks(case: Case, tokens: Tokens) -> None:
    """process_mtp_loss multiplies by its rank's tokens and divides by its rank's targets. It is handed the number of targets
    that makes this quotient the one of all context-parallel ranks. A rank without tokens in the main loss is left as it is.
    """
    names = vars(importlib.import_module("megatron.core.transformer.multi_token_prediction"))
    process, roll, own = names["process_mtp_loss"], names["roll_tensor"], [torch.zeros(())]

    def processed(*given: Any, **named: Any) -> torch.Tensor:
        bound = inspect.signature(process).bind(*given, **named)
        own[0] = bound.arguments["loss_mask"].sum()
        result: torch.Tensor = process(*given, **named)
        return result

    def rolled(tensor: torch.Tensor, *given: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        moved, left = roll(tensor, *given, **named)
        if not tensor.is_floating_point():  # tokens and labels are whole numbers, the mask is none
            return moved, left
        counts = torch.stack([own[0], left])
        dist.all_reduce(counts, group=parallel_state.get_context_parallel_group())
        return moved, own[0] * counts[1] / counts[0].clamp(min=1)

    names["roll_tensor"] = rolled
    everywhere("process_mtp_loss", process, processed)


def _mtp_mean_over_context_ranks(case: Case, tokens: Tokens) -> None:
    """The sum over a rank's targets is divided by the number that roll_tensor returns with the mask. It returns the mean of the
    context-parallel ranks' numbers: then the mean of the ranks' quotients is the mean over all of their targets.
    """
    roll = vars(importlib.import_module("megatron.core.transformer.multi_token_prediction"))["roll_tensor"]

    def rolled(tensor: torch.Tensor, *given: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        moved, left = roll(tensor, *given, **named)
        if not tensor.is_floating_point():  # tokens and labels are whole numbers, the mask is none
            return moved, left
        everyones = left.clone()
        dist.all_reduce(everyones, group=parallel_state.get_context_parallel_group())
        return moved, everyones / case.layout.cp

    everywhere("roll_tensor", roll, rolled)


def _attentions(chunk: Any) -> Iterator[Any]:
    return (module for module in chunk.modules() if hasattr(module, "kv_layernorm"))


def _kv_down_projections(chunk: Any) -> Iterator[Any]:
    """Those that stand by themselves."""
    return (attention.linear_kv_down_proj for attention in _attentions(chunk) if not joined_latents.has(attention))


def _absorbed_weights_of_the_parameter(case: Case, tokens: Tokens) -> None:
    """What decode multiplies with are views of the layer that the model keeps, unless it is made of other numbers."""
    attention = importlib.import_module("megatron.core.transformer.multi_latent_attention").MLASelfAttention
    absorb = attention.prepare_for_absorption

    def absorbing(self: Any) -> None:
        there = hasattr(self, "up_k_weight")
        absorb(self)
        if not there:
            parts = (self.config.qk_head_dim, self.config.v_head_dim)
            shape = (self.num_attention_heads_per_partition, sum(parts), self.config.kv_lora_rank)
            kept = self.linear_kv_up_proj_linear.weight.detach().view(shape)
            keys, values = kept.split(parts, dim=1)
            if torch.equal(self.up_k_weight, keys) and torch.equal(self.up_v_weight, values):
                self.up_k_weight, self.up_v_weight = keys, values

    attention.prepare_for_absorption = absorbing


MENDS = {
    "stale-absorbed-weights": Mend(_absorbed_weights_of_the_parameter),
    "expert-gradients-not-reduced": Mend(built=_experts_reduced_over_their_holders),
    "expert-weights-gathered-from-wrong-ranks": Mend(built=_experts_reduced_over_their_holders),
    "shared-rope-key-not-reduced": Mend(_gathered_rotary_key_summed, wrapped=_latent_marked),
    "norm-counts-duplicated-projections": Mend(built=mended_steps.duplicated_projections_counted_once),
    "norm-misses-experts": Mend(built=mended_steps.experts_counted_everywhere),
    "expert-gradients-read-too-early": Mend(mended_switches.gradients_read_when_computed),
    "loss-scales-of-experts-drift": Mend(mended_steps.scalers_see_every_overflow),
    "tied-output-weight-unused": Mend(built=_no_unused_output_weight),
    "latents-without-sequence-parallelism": Mend(_query_norms_summed_once, wrapped=_whole_rotary_key_summed),
    "yarn-softmax-scale": Mend(_softmax_scaled_by_mscale_all_dim),
    "balancing-losses-per-token": Mend(_balancing_times(_lost_per_token)),
    "balancing-losses-of-masked-tokens": Mend(_balancing_times(_counted_share)),
    "balancing-losses-under-context-parallelism": Mend(_balancing_times(lambda case, tokens: float(case.layout.cp))),
    "balancing-by-biased-choice": Mend(mended_switches.balanced_by_scores),
    "mtp-gradient-times-tp": Mend(mended_mtp.gathered_without_a_sum),
    "mtp-takes-the-next-document": Mend(mended_mtp.within_documents),
    "mtp-layers-count-padding": Mend(mended_mtp.told_of_padding, wrapped=mended_mtp.takes_padding),
    "mtp-embedding-at-the-common-rate": Mend(built=mended_mtp.embedding_is_marked),
    "mtp-padding-moved-in-parts": Mend(mended_mtp.told_of_padding, wrapped=mended_mtp.takes_padding),
    "mtp-targets-counted-per-rank": Mend(_mtp_targets_counted_over_context_ranks),
    "mtp-mean-counted-per-rank": Mend(_mtp_mean_over_context_ranks),
    "fused-cross-entropy-in-bf16": Mend(mended_switches.logits_gradient_as_it_is),
    "loads-counted-after-capacity": Mend(mended_switches.loads_before_capacity),
    "mask-ignored-by-transformer-engine": Mend(mended_switches.mask_is_taken),
    "outputs-freed-while-sent": Mend(mended_switches.outputs_kept_while_sent),
}
"""By the ids of validation/run/known.yaml; a test holds that every bug there has one, or is given the reference's value."""
