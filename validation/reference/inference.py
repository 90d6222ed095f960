"""The reference of a case in mode inference: a forward pass over whole sequences, and HuggingFace's cache as a witness."""

from __future__ import annotations

import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.inference import FLIPS, GENERATED, GREEDY, UPDATED, Inferred, inferred, prompt_length
from validation.reference.batch import Batch
from validation.reference.record import Recording


def phases(case: Case, recording: Recording, prefix: str = "") -> dict[str, torch.Tensor]:
    """What each phase with the weights of `prefix` is compared with, by name, from a recorded forward pass.

    No position sees a later one, so that a phase is a part of the whole pass.
    """
    wanted = [one for one in inferred(case).values() if one.phase.startswith(UPDATED) == bool(prefix)]
    return {one.name: _part(recording.forward[one.probe.name], one) for one in wanted}


@torch.no_grad()
def witness(case: Case, hf: DeepseekV3ForCausalLM, batch: Batch, recording: Recording) -> float:
    """How far logits with transformers' cache are from those of the recorded pass, as a relative error."""
    cached = _cached(hf.eval(), batch.tokens, prompt_length(case))
    full = recording.forward["logits"].to(cached.device)
    return float(torch.linalg.vector_norm(cached - full) / torch.linalg.vector_norm(full))


def _part(whole: torch.Tensor, one: Inferred) -> torch.Tensor:
    if one.runs:
        return torch.cat([whole[row, first:last] for row, first, last in one.runs])[None]
    return whole[:, one.start : one.start + one.probe.shape[1]].contiguous()


def _cached(hf: DeepseekV3ForCausalLM, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits of every position, [batch, sequence, vocabulary]: of the prompt at once, then token by token."""
    output = hf(input_ids=tokens[:, :prompt], use_cache=True)
    found = [output.logits]
    for position in range(prompt, tokens.shape[1]):
        output = hf(input_ids=tokens[:, position : position + 1], past_key_values=output.past_key_values, use_cache=True)
        found.append(output.logits)
    return torch.cat(found, 1)


@torch.no_grad()
def generated(case: Case, hf: DeepseekV3ForCausalLM, batch: Batch) -> dict[str, torch.Tensor]:
    """The tokens with the largest logits behind each prompt, and by how much each is preferred, both [batch, tokens].

    In units of the largest logit. Both in float64, as they are compared.
    """
    hf.eval()
    output = hf(input_ids=batch.tokens[:, : prompt_length(case)], use_cache=True)
    chosen, margins = [], []
    for _ in range(GENERATED):
        logits = output.logits[:, -1]
        best = logits.topk(2).values
        margins.append((best[:, 0] - best[:, 1]) / logits.abs().amax(-1))
        chosen.append(logits.argmax(-1))
        output = hf(input_ids=chosen[-1][:, None], past_key_values=output.past_key_values, use_cache=True)
    return {GREEDY: torch.stack(chosen, 1).double(), f"{FLIPS}{GREEDY}": torch.stack(margins, 1).double()}
