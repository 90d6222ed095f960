"""The reference of a case in mode inference: a forward pass over whole sequences, and HuggingFace's cache as a witness.

Below fp64 it is the truth, and the same model in the case's precision is measured against it: over the variants of every
floor, and with its own cache, which computes each token in products of other sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.inference import (
    DECODE,
    FLIPS,
    GENERATED,
    GREEDY,
    KINDS,
    UPDATED,
    Inferred,
    inferred,
    prompt_length,
    prompt_lengths,
)
from validation.compare.precision import as_stored
from validation.reference.batch import Batch
from validation.reference.floor import VARIANTS, Floor
from validation.reference.model import varied
from validation.reference.record import Recording, layer_hooks
from validation.reference.routing import Routing

Forward = Mapping[str, torch.Tensor]
Record = Callable[[Batch, Recording], Recording]
SCORES = "moe.router.scores"


def phases(case: Case, forward: Forward, prefix: str = "") -> dict[str, torch.Tensor]:
    """What each phase with the weights of `prefix` is compared with, by name, from a recorded forward pass.

    No position sees a later one, so that a phase is a part of the whole pass.
    """
    return {one.name: _part(forward[one.probe.name], one) for one in _of(case, prefix)}


@torch.no_grad()
def witness(case: Case, hf: DeepseekV3ForCausalLM, batch: Batch, forward: Forward) -> float:
    """How far logits with transformers' cache are from those of the recorded pass, as a relative error."""
    cached, full = _cached(hf.eval(), case, batch)["logits"], forward["logits"]
    return float(torch.linalg.vector_norm(cached - full) / torch.linalg.vector_norm(full))


def _of(case: Case, prefix: str) -> list[Inferred]:
    return [one for one in inferred(case).values() if one.phase.startswith(UPDATED) == bool(prefix)]


def _part(whole: torch.Tensor, one: Inferred) -> torch.Tensor:
    if one.runs:
        return torch.cat([whole[row, first:last] for row, first, last in one.runs])[None]
    return whole[:, one.start : one.start + one.probe.shape[1]].clone()


def _cached(hf: DeepseekV3ForCausalLM, case: Case, batch: Batch, chosen: Routing | None = None) -> dict[str, torch.Tensor]:
    """The probes of every position by name: of the prompt at once, then token by token, with transformers' cache."""
    prompt, past, parts = prompt_length(case), None, defaultdict[str, list[torch.Tensor]](list)
    for start, stop in [(0, prompt), *((at, at + 1) for at in range(prompt, case.seq_length))]:
        some = replace(batch, tokens=batch.tokens[:, start:stop])
        replay = {name: tensor[:, start:stop] for name, tensor in chosen.items()} if chosen else None
        recording = Recording(replay)
        layers = enumerate(hf.model.layers)
        hooks = [hook for index, layer in layers for hook in layer_hooks(layer, case.model, index, some, recording)]
        try:
            output = hf(input_ids=some.tokens, past_key_values=past, use_cache=True)
        finally:
            for hook in hooks:
                hook.remove()
        past = output.past_key_values
        for name, tensor in {**recording.forward, "logits": output.logits.cpu()}.items():
            if name.endswith((*KINDS, SCORES)):
                parts[name].append(tensor)
    return {name: torch.cat(tensors, 1) for name, tensors in parts.items()}


@torch.no_grad()
def generated(case: Case, hf: DeepseekV3ForCausalLM, batch: Batch) -> dict[str, torch.Tensor]:
    """The tokens with the largest logits behind each prompt, and by how much each is preferred, both [batch, tokens].

    In units of the largest logit. Both in float64, as they are compared.
    """
    hf.eval()
    tokens, margins = torch.zeros(2, case.batch_size, GENERATED, dtype=torch.float64)
    for prompt, rows in _by_prompt(case):
        output = hf(input_ids=batch.tokens[rows, :prompt], use_cache=True)
        for step in range(GENERATED):
            logits = output.logits[:, -1]
            best = logits.topk(2).values
            margins[rows, step] = ((best[:, 0] - best[:, 1]) / logits.abs().amax(-1)).cpu()
            chosen = logits.argmax(-1)
            tokens[rows, step] = chosen.double().cpu()
            output = hf(input_ids=chosen[:, None], past_key_values=output.past_key_values, use_cache=True)
    return {GREEDY: tokens, f"{FLIPS}{GREEDY}": margins}


def _by_prompt(case: Case) -> Iterator[tuple[int, list[int]]]:
    """Prompts' lengths, each with the sequences that have it."""
    lengths = prompt_lengths(case)
    for prompt in sorted(set(lengths)):
        yield prompt, [row for row, length in enumerate(lengths) if length == prompt]


def generation(case: Case, batch: Batch, tokens: torch.Tensor) -> Batch:
    """The prompts with what is generated behind them, as sequences of one length; what stands behind that does not matter."""
    lengths = prompt_lengths(case)
    found = torch.zeros(case.batch_size, max(lengths) + GENERATED, dtype=batch.tokens.dtype, device=batch.tokens.device)
    for row, prompt in enumerate(lengths):
        found[row, :prompt] = batch.tokens[row, :prompt]
        found[row, prompt : prompt + GENERATED] = tokens[row].to(found)
    return Batch(found, torch.zeros_like(found), torch.ones_like(found, dtype=torch.float32))


# What rounding does


@dataclass(frozen=True)
class Truth:
    """A pass in fp64 over a batch, by the weights that it is computed with: its probes, and what its routers have chosen."""

    prefix: str
    batch: Batch
    forward: Forward
    chosen: Routing

    @property
    def stored_routing(self) -> Routing:
        """As ranks read it."""
        return {f"{self.prefix}{name}": tensor for name, tensor in self.chosen.items()}


@torch.no_grad()
def floor(
    case: Case, hf: DeepseekV3ForCausalLM, truth: Truth, record: Record, progress: Callable[[str], None]
) -> dict[str, Any]:
    """What rounding does to each tensor of the phases with the weights of the truth: the facts of validation.reference.floor.

    `hf` computes in the case's precision, and `record` with it. `floor_at` is the largest error of one token alone, by the
    names of decoded tensors.
    """
    scores = {name: tensor for name, tensor in truth.forward.items() if name.endswith(SCORES)}
    exact = phases(case, truth.forward, truth.prefix)
    floors, alone = Floor(exact | scores), dict[str, float]()
    for name, found in _runs(case, hf, truth, record, progress):
        progress(f"floor: {name}")
        parts = phases(case, found, truth.prefix)
        floors.add((parts | {name: found[name] for name in scores}).items())
        for one in _of(case, truth.prefix):
            if one.phase.endswith(DECODE) and not one.routes:
                error = _largest_of_a_token(parts[one.name], exact[one.name])
                alone[one.name] = max(alone.get(one.name, floors.error(one.name)), error)
    facts = floors.facts(case)
    by_phase = {one.name: facts["score_floor"][one.probe.name] for one in _of(case, truth.prefix) if one.routes}
    return {**facts, "score_floor": by_phase, "floor_at": alone}


def _runs(
    case: Case, hf: DeepseekV3ForCausalLM, truth: Truth, record: Record, progress: Callable[[str], None]
) -> Iterator[tuple[str, Forward]]:
    for variant in VARIANTS:
        with varied(hf, variant):
            found = record(truth.batch, Recording(truth.chosen)).forward
        yield variant.name, found
    yield "with a cache", _cached(hf, case, truth.batch, truth.chosen)


def _largest_of_a_token(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest relative error that one position of one sequence has by itself; both tensors are [rows, positions, ...]."""
    with as_stored():
        exact = truth.to(found.device)
        errors = torch.linalg.vector_norm((found.double() - exact).flatten(2), dim=-1)
        return float((errors / torch.linalg.vector_norm(exact.flatten(2), dim=-1)).max())


@torch.no_grad()
def logit_floor(case: Case, hf: DeepseekV3ForCausalLM, truth: Truth, record: Record) -> float:
    """The largest error of a logit that chooses a token, in units of that position's largest, as margins are."""
    rows = [(row, slice(prompt - 1, prompt - 1 + GENERATED)) for row, prompt in enumerate(prompt_lengths(case))]
    largest = 0.0
    for variant in VARIANTS:
        with varied(hf, variant):
            found = record(truth.batch, Recording(truth.chosen)).forward["logits"]
        with as_stored():
            for row, places in rows:
                exact = truth.forward["logits"][row, places]
                errors = (found[row, places].double() - exact).abs().amax(-1) / exact.abs().amax(-1)
                largest = max(largest, float(errors.max()))
    return largest


def merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of several passes as those of one reference."""
    found: dict[str, Any] = defaultdict(dict)
    for part in parts:
        for kind, facts in part.items():
            found[kind].update(facts)
    return dict(found)
