"""A small rollout engine: HuggingFace's model with its cache, prefill, then a token at a time; and what can go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import DynamicCache

from tests.convert import folders
from validation.case.model import Model
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.compare.precision import computing_in
from validation.reference.weights import scaled
from validation.rollout.dump import Said
from validation.rollout.truth import HuggingFace, Routers

MODEL = replace(TINY.model, num_hidden_layers=2, first_k_dense_replace=1, num_nextn_predict_layers=0)
PROMPT = 6
LENGTHS = (16, 24, 20)
Spoil = Callable[[DynamicCache, int], None]
"""Called before each decode step with the cache and the position of the token that is fed."""


def write_folder(folder: Path, model: Model = MODEL, seed: int = 0, bias: bool = True) -> Path:
    """A HuggingFace folder with weights that bf16 holds exactly; `bias` is what routers add to choose, or zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, state = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    for parameter in parameters(model).values():
        value = scaled(parameter, torch.randn(parameter.shape, generator=generator))
        value = value.bfloat16() if parameter.trained else value * bias
        keys = parameter.keys()
        state |= {key: part.clone() for key, part in zip(keys, value, strict=True)} if len(keys) > 1 else {keys[0]: value}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(folders.config(model)))
    return folder


def moved(folder: Path, to: Path, by: float = 0.05) -> Path:
    """The folder after a step: every trained matrix is off by a share of itself."""
    from safetensors.torch import load_file

    to.mkdir()
    generator = torch.Generator().manual_seed(7)
    state = load_file(folder / "model.safetensors")
    for name, value in state.items():
        if value.dtype == torch.bfloat16:
            state[name] = (value.float() * (1 + by * torch.randn(value.shape, generator=generator))).bfloat16()
    save_file(state, to / "model.safetensors")
    (to / "config.json").write_text((folder / "config.json").read_text())
    return to


@cache
def opened(folder: Path, precision: str = "fp64") -> HuggingFace:
    """The model of a folder."""
    return HuggingFace.open(folder, precision, precision)


def drawn(seed: int = 0, lengths: Sequence[int] = LENGTHS, vocabulary: int = MODEL.vocab_size) -> list[Said]:
    """Random sequences: a prompt and an answer."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        tokens = tuple(torch.randint(0, vocabulary, (length,), generator=generator).tolist())
        found.append(Said(tokens, PROMPT, (None,) * length, (False, *(True,) * (length - 1))))
    return found


@torch.no_grad()
def logits(model: HuggingFace, one: Said, spoil: Spoil = lambda cache, position: None) -> torch.Tensor:
    """What the engine computes at each position, [sequence, vocabulary]: the prompt at once, then token by token."""
    hf, tokens = model.hf, torch.tensor([one.tokens])
    held, found = DynamicCache(config=hf.config), []
    with computing_in(model.precision):
        pieces = [(0, one.prompt), *((at, at + 1) for at in range(one.prompt, len(one.tokens)))]
        for start, stop in pieces:
            if start:
                spoil(held, start)
            out = hf.model(
                input_ids=tokens[:, start:stop],
                position_ids=torch.arange(start, stop)[None],
                past_key_values=held,
                use_cache=True,
            )
            found.append(hf.lm_head(out.last_hidden_state)[0].float())
    return torch.cat(found)


def chosen(logits: torch.Tensor, one: Said, temperature: float = 1.0) -> list[float | None]:
    """The log-probabilities that an engine returns of its logits."""
    every = torch.log_softmax(logits[:-1] / temperature, dim=-1)
    return [None, *every.gather(1, torch.tensor(one.tokens)[1:, None])[:, 0].tolist()]


def routed(model: HuggingFace, one: Said) -> list[list[list[int]]]:
    """The experts of each token, as engines return them: [position][layer][k]."""
    seen = Routers()
    list(model.hidden([one], seen=[seen]))
    layers = [seen.chosen[layer].nonzero()[:, 1].view(len(one.tokens), -1).tolist() for layer in model.model.moe_layers]
    return [list(row) for row in zip(*layers, strict=True)]


HEADER = {"format": "plumbline-logprobs", "version": 1, "mode": "raw_logprobs", "precision": "fp64", "engine": "small"}


def write(path: Path, sequences: Sequence[dict[str, Any]], **header: Any) -> Path:
    """A dump as JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in ({**HEADER, **header}, *sequences)))
    return path


def lines(folder: Path, said: Sequence[Said], temperature: float = 1.0, **how: Any) -> list[dict[str, Any]]:
    """The sequences of a dump that this engine makes."""
    model = opened(folder)
    return [
        {"tokens": list(one.tokens), "prompt": one.prompt, "logprobs": chosen(logits(model, one, **how), one, temperature)}
        for one in said
    ]
