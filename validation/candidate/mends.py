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

from validation.candidate import build
from validation.candidate.step import counted
from validation.case.case import Case

Plugin = Any
"""validation.run.plugin.Plugin, which lies in a room above."""
Chunks = list[Any]
LATENT_EPSILON = 1e-6
"""Of the latents' norms in transformers (DeepseekV3RMSNorm's default) and in the code that DeepSeek publishes."""


def _nothing(*given: Any) -> None:
    """What an entry leaves out."""


Tokens = Callable[[], int]
"""Says how many tokens count in the loss of the step that is being computed, over all ranks."""


@dataclass(frozen=True)
class Mend:
    """How a bug is taken out of a rank: `install` once, before the model is built, `built` from each chunk of it."""

    install: Callable[[Case, Tokens], None] = _nothing
    built: Callable[[Case, Any], None] = _nothing


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

    def stepped(case: Case, chunks: Chunks, step: int) -> None:
        taken[0] = step
        plugin.stepped(case, chunks, step)

    return replace(plugin, built=built, stepped=stepped)


def _experts_reduced_over_their_holders(case: Case, chunk: Any) -> None:
    """Expert gradients go to the buffers of expert parallelism, which are reduced over the ranks that hold the expert."""
    for name, weight in chunk.named_parameters():
        if ".experts." in name and getattr(weight, "allreduce", True):
            weight.allreduce = False


def _rotary_columns_summed(case: Case) -> Callable[[torch.Tensor], torch.Tensor]:
    """A gradient [..., kv_lora_rank + rotary dimensions] with its rotary columns summed over the tensor-parallel ranks."""
    rank = case.model.kv_lora_rank

    def summed(gradient: torch.Tensor) -> torch.Tensor:
        rotary = gradient[..., rank:].contiguous()
        dist.all_reduce(rotary, group=parallel_state.get_tensor_model_parallel_group())
        return torch.cat([gradient[..., :rank], rotary], dim=-1)

    return summed


def _gathered_rotary_key_summed(case: Case, tokens: Tokens) -> None:
    """Behind column-parallel down-projections: the gradient at the gathered latent, whose backward pass only splits it."""
    names = vars(importlib.import_module("megatron.core.transformer.multi_latent_attention"))
    gather, summed = names["gather_from_tensor_model_parallel_region"], _rotary_columns_summed(case)

    def gathered(part: torch.Tensor, *rest: Any, **keywords: Any) -> torch.Tensor:
        whole: torch.Tensor = gather(part, *rest, **keywords)
        if getattr(part, _LATENT, False) and whole.requires_grad:
            whole.register_hook(summed)
        return whole

    names["gather_from_tensor_model_parallel_region"] = gathered


_LATENT = "plumbline_kv_latent"
"""Marks what a KV down-projection has returned: the query's goes through the same gather."""


def _latent_marked(case: Case, chunk: Any) -> None:
    def mark(module: Any, given: Any, output: Any) -> None:
        setattr(output[0], _LATENT, True)

    for projection in _kv_down_projections(chunk):
        projection.register_forward_hook(mark)


def _whole_rotary_key_summed(case: Case, chunk: Any) -> None:
    """Without sequence parallelism: the gradient at the output of a down-projection that every rank holds whole."""
    summed, whole = _rotary_columns_summed(case), case.model.kv_lora_rank + case.model.qk_rope_head_dim

    def watch(module: Any, given: Any, output: Any) -> None:
        if output[0].requires_grad and output[0].shape[-1] == whole:
            output[0].register_hook(summed)

    for projection in _kv_down_projections(chunk):
        projection.register_forward_hook(watch)


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
    names["_yarn_get_mscale"] = lambda scale, mscale: sound(scale, case.model.mscale_all_dim)


def _balancing_times(factor: Callable[[Case, Tokens], float]) -> Callable[[Case, Tokens], None]:
    """What sends a balancing loss back, with the loss multiplied by a factor of the step."""

    def install(case: Case, tokens: Tokens) -> None:
        scaler: Any = vars(importlib.import_module("megatron.core.transformer.moe.moe_utils"))["MoEAuxLossAutoScaler"]
        sound = scaler.apply
        scaler.apply = staticmethod(lambda output, loss: sound(output, loss * factor(case, tokens)))

    return install


def _lost_per_token(case: Case, tokens: Tokens) -> float:
    """The inverse of what a loss per token leaves of a balancing loss (docs/findings/balancing-losses-per-token.md)."""
    found = case.layout.tp * case.layout.cp * tokens() / (case.batch_size * case.seq_length)
    # Since 0.16 the router multiplies by the tokens of one sequence, and not by all that its rank sees.
    attach = getattr(TopKRouter, "attach_and_log_load_balancing_loss", None)
    of_one = attach is not None and "valid_token_count" in inspect.signature(attach).parameters
    return found * (case.micro_batch_size if of_one and case.training.balancing == "seq_aux_loss" else 1)


def _latent_epsilon(case: Case, chunk: Any) -> None:
    """Transformer Engine joins each norm with the projection behind it, which then has the epsilon."""
    for attention in _attentions(chunk):
        for name in ("q_layernorm", "kv_layernorm", "linear_q_up_proj", "linear_kv_up_proj"):
            module: Any = getattr(attention, name, None)
            if getattr(module, "eps", None) == case.model.rms_norm_eps:
                module.eps = LATENT_EPSILON


def _attentions(chunk: Any) -> Iterator[Any]:
    return (module for module in chunk.modules() if hasattr(module, "kv_layernorm"))


def _kv_down_projections(chunk: Any) -> Iterator[Any]:
    return (attention.linear_kv_down_proj for attention in _attentions(chunk))


MENDS = {
    "expert-gradients-not-reduced": Mend(built=_experts_reduced_over_their_holders),
    "shared-rope-key-not-reduced": Mend(_gathered_rotary_key_summed, _latent_marked),
    "tied-output-weight-unused": Mend(built=_no_unused_output_weight),
    "latents-without-sequence-parallelism": Mend(_query_norms_summed_once, _whole_rotary_key_summed),
    "yarn-softmax-scale": Mend(_softmax_scaled_by_mscale_all_dim),
    "balancing-losses-per-token": Mend(_balancing_times(_lost_per_token)),
    "balancing-losses-under-context-parallelism": Mend(_balancing_times(lambda case, tokens: float(case.layout.cp))),
    "latent-norm-epsilon": Mend(built=_latent_epsilon),
}
"""By the ids of validation/run/known.yaml; a test holds that every bug there has one."""
