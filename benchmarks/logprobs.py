"""How far a right engine is from HuggingFace in a low precision, in floors (docs/decisions/0005-log-probabilities.md).

    python benchmarks/logprobs.py --seeds 100 --precision bf16

Each seed is a model of its own (two layers of tiny) and 24 sequences of its own. The engines are right, and compute in
other ways than the runs of the floor: a prefill and then a token at a time with a cache, attention in two ways, and absorbed.
vLLM and SGLang decode absorbed: the query is multiplied with the up-projection of the keys, and attends to latents.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformers import DynamicCache
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, apply_rotary_pos_emb_interleave

from tests.rollout import engine
from validation.compare.precision import computing_in
from validation.reference.model import computing_with
from validation.rollout import figures, floors
from validation.rollout.dump import KINDS, Said
from validation.rollout.judge import judge
from validation.rollout.source import Source
from validation.rollout.truth import HuggingFace, every, of_tokens

SEQUENCES, LENGTH = 24, 20
ENGINES = {
    "cached": ("sdpa", "eager", False),
    "cached, eager": ("eager", "grouped_mm", False),
    "absorbed": ("sdpa", "eager", True),
}


def absorbed(
    self: Any, hidden_states: Any, position_embeddings: Any, attention_mask: Any, past_key_values: Any = None, **more: Any
) -> Any:
    """Attention over cached latents; the weights of kv_b_proj go to the query and to what attention returns."""
    hidden = hidden_states
    batch, length, _ = hidden.shape
    query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(hidden))) if self.q_lora_rank is not None else self.q_proj(hidden)
    query = query.view(batch, length, self.num_heads, self.qk_head_dim).transpose(1, 2)
    plain, rotary = query.split([self.qk_nope_head_dim, self.qk_rope_head_dim], dim=-1)
    latent, key = self.kv_a_proj_with_mqa(hidden).split([self.kv_lora_rank, self.qk_rope_head_dim], dim=-1)
    latent = self.kv_a_layernorm(latent)[:, None]
    rotary, key = apply_rotary_pos_emb_interleave(rotary, key[:, None], *position_embeddings)
    latent, key = past_key_values.update(latent, key, self.layer_idx)
    up = self.kv_b_proj.weight.view(self.num_heads, self.qk_nope_head_dim + self.v_head_dim, self.kv_lora_rank)
    of_keys, of_values = up.split([self.qk_nope_head_dim, self.v_head_dim], dim=1)
    taken = torch.einsum("bhqd,hdc->bhqc", plain, of_keys)
    scores = (taken @ latent.transpose(-1, -2) + rotary @ key.transpose(-1, -2)).float() * self.scaling
    before = torch.arange(latent.shape[2])[None] <= torch.arange(latent.shape[2] - length, latent.shape[2])[:, None]
    weights = scores.masked_fill(~before, float("-inf")).softmax(-1).to(hidden.dtype)
    values = torch.einsum("bhqc,hdc->bhqd", weights @ latent, of_values)
    return self.o_proj(values.transpose(1, 2).reshape(batch, length, -1)), None


@contextmanager
def _attention(own: bool) -> Iterator[None]:
    if not own:
        yield
        return
    with mock.patch.object(DeepseekV3Attention, "forward", absorbed):
        yield


@torch.no_grad()
def engine_logprobs(model: HuggingFace, said: list[Said], how: tuple[str, str, bool]) -> list[torch.Tensor]:
    """What an engine returns for sequences of one length, computed together."""
    attention, experts, own = how
    tokens = torch.tensor([one.tokens for one in said])
    held, found = DynamicCache(config=model.hf.config), []
    pieces = [(0, engine.PROMPT), *((at, at + 1) for at in range(engine.PROMPT, LENGTH))]
    with computing_in(model.precision), computing_with(model.hf, attention, experts), _attention(own):
        for start, stop in pieces:
            places = torch.arange(start, stop)[None]
            out = model.hf.model(input_ids=tokens[:, start:stop], position_ids=places, past_key_values=held, use_cache=True)
            found.append(model.hf.lm_head(out.last_hidden_state).float())
    return [of_tokens(logits, row, 1.0) for logits, row in zip(torch.cat(found, dim=1), tokens, strict=True)]


def ratios(folder: Path, seed: int, precision: str) -> Iterator[tuple[str, str, float, float]]:
    """By engine and kind: the root mean square as a share of its limit, the largest as a multiple of the runs' largest."""
    engine.write_folder(folder, seed=seed)
    said = engine.drawn(seed, [LENGTH] * SEQUENCES)
    truth = every(HuggingFace.open(folder, "fp64", precision), said, 1.0)
    floor = floors.measure(Source(folder), said, precision, truth, 1.0)
    model, counted = HuggingFace.open(folder, precision, precision), figures.masks(said)
    for name, how in ENGINES.items():
        found = figures.by_kind(engine_logprobs(model, said, how), truth, counted)
        for kind in KINDS:
            one = found[kind]
            yield name, kind, one.rms / floor.of_kind(kind, one.count), one.largest / floor.largest


def seen(place: Path, seed: int, precision: str) -> Iterator[tuple[str, bool]]:
    """Whether each wrong engine is seen, by its defect."""
    folder = engine.write_folder(place / "model", seed=seed)
    said = engine.drawn(seed, [LENGTH] * SEQUENCES)
    truth = every(HuggingFace.open(folder, "fp64", precision), said, 1.0)
    floor, spread = floors.measure(Source(folder), said, precision, truth, 1.0), floors.spread(truth, said)
    model = HuggingFace.open(folder, precision, precision)
    right = engine_logprobs(model, said, ENGINES["cached"])
    wrong = {
        "none": right,
        "shifted by one token": [one.roll(1) for one in right],
        "temperature of 0.7": [of_tokens(model.logits(one), torch.tensor(one.tokens), 0.7) for one in said],
    }
    for share in (0.2, 0.05, 0.01):
        before = engine.moved(folder, place / f"before-{share}", share)
        stale = HuggingFace.open(before, precision, precision)
        wrong[f"weights off by {share:.0%}"] = engine_logprobs(stale, said, ENGINES["cached"])
        shutil.rmtree(before)
    without = HuggingFace.open(engine.write_folder(place / "bias", seed=seed, bias=False), precision, precision)
    wrong["no expert bias"] = engine_logprobs(without, said, ENGINES["cached"])
    wrong["one cached value lost from the sixth decoded token on"] = [with_a_lost_value(model, one) for one in said]
    for name, values in wrong.items():
        yield name, bool(judge("engine", "HuggingFace", (values, truth), said, floor, spread).failing)


def with_a_lost_value(model: HuggingFace, one: Said) -> torch.Tensor:
    """An engine whose cache goes wrong at one position."""

    def spoil(cache: DynamicCache, position: int) -> None:
        if position == engine.PROMPT + 5:
            for layer in cache.layers:
                layer.values[:, :, 3] = 0.0

    return of_tokens(engine.logits(model, one, spoil), torch.tensor(one.tokens), 1.0)


def main() -> None:
    """Print the distribution of both ratios, by engine and kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--wrong", action="store_true", help="count in how many seeds wrong engines are seen")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.wrong:
        _wrong(options)
        return
    both: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        for seed in range(options.first, options.first + options.seeds):
            for name, kind, rms, largest in ratios(Path(place) / "model", seed, options.precision):
                both[name, kind].append((rms, largest))
            worst = [max(values[-1][at] for values in both.values()) for at in (0, 1)]
            print(seed, *worst, file=sys.stderr, flush=True)
    for (name, kind), values in both.items():
        for what, numbers in zip(("rms, of its limit", "one token, of the largest"), zip(*values, strict=True), strict=True):
            ordered = sorted(numbers)
            shares = [ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99)]
            print(f"{name:14} {kind:13} {what:25} median {shares[0]:.2f}, 99 % {shares[1]:.2f}, largest {ordered[-1]:.2f}")


def _wrong(options: argparse.Namespace) -> None:
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        for seed in range(options.first, options.first + options.seeds):
            counts.update({name: int(found) for name, found in seen(Path(place), seed, options.precision)})
    for name, count in counts.items():
        print(f"{name}: seen in {count} of {options.seeds} seeds")


if __name__ == "__main__":
    main()
