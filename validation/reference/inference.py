"""The reference of a case in mode inference: a forward pass over whole sequences, and HuggingFace's cache as a witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.inference import WITNESS, inferred, prompt_length
from validation.reference.batch import Batch
from validation.reference.record import Recording


def save(case: Case, hf: DeepseekV3ForCausalLM, batch: Batch, recording: Recording, folder: Path) -> dict[str, Any]:
    """Write what each phase is compared with, from a recorded forward pass; returns the facts.

    No position sees a later one, so that a phase is a part of the whole pass.
    """
    wanted = inferred(case).values()
    found = {one.name: _part(recording.forward[one.probe.name], one.start, one.probe.shape[1]) for one in wanted}
    save_file(found, folder / "probes.safetensors")
    with torch.no_grad():
        cached = cached_logits(hf.eval(), batch.tokens, prompt_length(case))
    full = recording.forward["logits"].to(cached.device)
    return {WITNESS: float(torch.linalg.vector_norm(cached - full) / torch.linalg.vector_norm(full))}


def _part(whole: torch.Tensor, start: int, length: int) -> torch.Tensor:
    return whole[:, start : start + length].contiguous()


def cached_logits(hf: DeepseekV3ForCausalLM, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits of every position, [batch, sequence, vocabulary], by transformers' cache: the prompt, then token by token."""
    output = hf(input_ids=tokens[:, :prompt], use_cache=True)
    found = [output.logits]
    for position in range(prompt, tokens.shape[1]):
        output = hf(input_ids=tokens[:, position : position + 1], past_key_values=output.past_key_values, use_cache=True)
        found.append(output.logits)
    return torch.cat(found, 1)
