"""Right dumps of rollout engines must pass `logprobs`, and wrong ones must fail with the side and the cause that are wrong.

    python benchmarks/rollouts.py [--results DIR] [--only NAME ...]

A small engine (HuggingFace's model with its cache, two layers of tiny) makes them in the format of each engine and trainer.
Megatron computes the same tokens. It prints every report, and ends with 1 if one of them says something else than it must.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformers import DynamicCache

from tests.rollout import engine
from validation import cli
from validation.rollout import command
from validation.rollout.dump import Said

Lines = list[dict[str, Any]]
MANY = 160
"""Sequences of the dump in bf16."""
AGREES = "Megatron agrees with HuggingFace: the error is in the engine."


@dataclass(frozen=True)
class Asked:
    """A dump, how it is compared, and what must come of it: the exit code, and words of the report."""

    name: str
    file: Path
    words: tuple[str, ...]
    code: int
    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """The folder that the engine runs, its sequences, and a place for dumps."""

    folder: Path
    said: Sequence[Said]
    place: Path

    def lines(self, precision: str = "fp64", temperature: float = 1.0, spoil: engine.Spoil | None = None) -> Lines:
        """What it says of its sequences."""
        model, how = engine.opened(self.folder, precision), {} if spoil is None else {"spoil": spoil}
        found = [engine.chosen(engine.logits(model, one, **how), one, temperature) for one in self.said]
        numbers = zip(self.said, found, strict=True)
        return [{"tokens": list(one.tokens), "prompt": one.prompt, "logprobs": logprobs} for one, logprobs in numbers]

    def own(self, name: str, lines: Lines, **header: Any) -> Path:
        """A dump in Plumbline's format."""
        return engine.write(self.place / f"{name}.jsonl", lines, **header)

    def saved(self, name: str, value: Any) -> Path:
        """A `.pt`."""
        torch.save(value, self.place / f"{name}.pt")
        return self.place / f"{name}.pt"

    def written(self, name: str, values: Lines) -> Path:
        """Responses, one a line."""
        (self.place / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
        return self.place / f"{name}.jsonl"


def _lost(cache: DynamicCache, position: int) -> None:
    """A cached value is lost when the sixth token of the answer is decoded."""
    if position == engine.PROMPT + 5:
        for layer in cache.layers:
            layer.values[:, :, 3] = 0.0


def right(made: Engine) -> Iterator[Asked]:
    """Right dumps, one of each format."""
    yield Asked("own", made.own("own", made.lines()), ("--layout", "tp2"), 0)
    # In bf16 near-ties of so small a model are large: fewer sequences decide nothing.
    many = Engine(made.folder, engine.drawn(1, [20] * MANY), made.place).lines("bf16")
    yield Asked("own in bf16", made.own("bf16", many, precision="bf16"), ("--layout", "single"), 0)
    low = made.lines("fp32")
    yield Asked("own, streamed", made.own("streamed", low, precision="fp32"), ("--stream",), 0)
    yield Asked("vllm", made.written("vllm", [_vllm(one) for one in low]), _how("raw_logprobs"), 0)
    hot = made.lines("fp32", 0.7)
    yield Asked("sglang", made.written("sglang", [_sglang(one) for one in hot]), _how("processed_logprobs", "0.7"), 0)
    yield Asked("slime", made.saved("slime", {"samples": [_slime(one) for one in low]}), _how("raw_logprobs"), 0)
    yield Asked("verl", made.saved("verl", _verl(low, low)), _how("raw_logprobs"), 0)


def wrong(made: Engine) -> Iterator[Asked]:
    """Wrong ones: the engine's cache, what it was asked for, its weights, and the trainer's."""
    lost = made.lines(spoil=_lost)
    said = (f"The engine's decode tokens are wrong from position {engine.PROMPT + 6} of sequence 0 on", AGREES)
    yield Asked("a lost value", made.own("lost", lost), ("--layout", "tp2"), 1, said)
    shifted = [{**one, "logprobs": [None, None, *one["logprobs"][1:-1]]} for one in made.lines()]
    yield Asked("shifted", made.own("shifted", shifted), (), 1, ("shift them by one to the left",))
    hot = made.written("hot", [_vllm(one) for one in made.lines("fp32", 0.7)])
    yield Asked("a temperature in raw logprobs", hot, _how("raw_logprobs"), 1, ("a temperature of 0.7",))
    before = engine.moved(made.folder, made.place / "before")
    stale = Engine(before, made.said, made.place).lines()
    words = ("--earlier-hf-model-path", str(before), "--layout", "single")
    yield Asked("stale weights", made.own("stale", stale), words, 1, ("the engine was not given the new ones", AGREES))
    low, old = made.lines("fp32"), Engine(before, made.said, made.place).lines("fp32")
    says = ("The trainer's log-probabilities are wrong", "The engine agrees")
    yield Asked("a stale trainer", made.saved("trainer", _verl(low, old)), _how("raw_logprobs"), 1, says)


def _how(mode: str, temperature: str = "") -> tuple[str, ...]:
    given = ("--mode", mode, "--engine-precision", "fp32")
    return (*given, "--temperature", temperature) if temperature else given


def _vllm(one: dict[str, Any]) -> dict[str, Any]:
    """A response of /v1/completions, with the log-probabilities of the prompt."""
    prompt, tokens, values = one["prompt"], one["tokens"], one["logprobs"]
    before = [None, *({str(tokens[at]): {"logprob": values[at], "rank": 1}} for at in range(1, prompt))]
    answer = {"tokens": [str(token) for token in tokens[prompt:]], "token_logprobs": values[prompt:]}
    choice = {"index": 0, "logprobs": answer, "token_ids": tokens[prompt:], "prompt_token_ids": tokens[:prompt]}
    return {"object": "text_completion", "choices": [{**choice, "prompt_logprobs": before}]}


def _sglang(one: dict[str, Any]) -> dict[str, Any]:
    """A response of /generate, whose answer alone has log-probabilities."""
    prompt, tokens, values = one["prompt"], one["tokens"], one["logprobs"]
    answer = [[value, token, None] for value, token in zip(values[prompt:], tokens[prompt:], strict=True)]
    return {"input_ids": tokens[:prompt], "meta_info": {"prompt_tokens": prompt, "output_token_logprobs": answer}}


def _slime(one: dict[str, Any]) -> dict[str, Any]:
    """A sample."""
    answer = one["logprobs"][one["prompt"] :]
    return {
        "tokens": one["tokens"],
        "response_length": len(answer),
        "rollout_log_probs": answer,
        "loss_mask": [1] * len(answer),
    }


def _verl(lines: Lines, trainer: Lines) -> dict[str, torch.Tensor]:
    """A batch with answers padded to the longest."""
    width = max(len(one["tokens"]) - one["prompt"] for one in lines)

    def padded(rows: Sequence[Sequence[float]]) -> torch.Tensor:
        return torch.tensor([[*row, *(0,) * (width - len(row))] for row in rows])

    answers = [one["tokens"][one["prompt"] :] for one in lines]
    mask = padded([[1] * len(row) for row in answers])
    return {
        "input_ids": torch.cat([torch.tensor([one["tokens"][: one["prompt"]] for one in lines]), padded(answers)], 1),
        "attention_mask": torch.cat([torch.ones(len(lines), lines[0]["prompt"], dtype=torch.int64), mask], 1),
        "responses": padded(answers),
        "rollout_log_probs": padded([one["logprobs"][one["prompt"] :] for one in lines]),
        "old_log_probs": padded([one["logprobs"][one["prompt"] :] for one in trainer]),
        "response_mask": mask,
    }


def as_expected(asked: Asked, folder: Path, results: str | None) -> bool:
    """Whether `logprobs` says of the dump what it must; prints its report."""
    words = ["logprobs", str(asked.file), "--hf-model-path", str(folder), *asked.words]
    given = cli._parser().parse_args([*words, *(("--results", results) if results else ())])
    given.document = {}
    sys.stdout.write(f"\n##### {asked.name}: exit code {asked.code} is expected\n")
    code = command.run(given, f"python -m validation {' '.join(words)}")
    missing = [word for word in asked.says if not any(word in line for line in given.document["says"])]
    for line in [f"unexpected exit code {code}"] * (code != asked.code) + [f"not said: {word}" for word in missing]:
        sys.stdout.write(f"{line}\n")
    return code == asked.code and not missing


def main() -> int:
    """Every dump; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", metavar="DIR", help="write JUnit XML there")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = engine.write_folder(Path(place) / "model")
        made = Engine(folder, engine.drawn(0, [20] * 24), Path(place))
        sources: tuple[Callable[[Engine], Iterator[Asked]], ...] = (right, wrong)
        every = [one for source in sources for one in source(made) if not options.only or one.name in options.only]
        bad = [one.name for one in every if not as_expected(one, folder, options.results)]
    otherwise = f", told otherwise: {', '.join(bad)}" if bad else ""
    sys.stdout.write(f"\n===== {'FAIL' if bad else 'PASS'} ({len(every)} dumps{otherwise}) =====\n")
    return bool(bad)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
