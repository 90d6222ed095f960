"""A right dump passes; of one with a real mistake the report says which side is wrong, from where on, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file
from transformers import DynamicCache

from tests.checks.test_json import SCHEMA
from tests.rollout import engine
from tests.rollout.conftest import Bench, Output, compared

Line = dict[str, Any]
Capsys = pytest.CaptureFixture[str]
PREFILL, FIRST, DECODE = (f"Engine Against HuggingFace, {kind}" for kind in ("Prefill", "First Decode", "Decode"))


def one(bench: Bench, capsys: Capsys, place: Path, change: Callable[[Line], Line], **header: Any) -> Output:
    """What is said of the right lines, each changed."""
    return compared(capsys, engine.write(place / "dump.jsonl", [change(line) for line in bench.right], **header), bench.folder)


def shifted(by: int) -> Callable[[Line], Line]:
    """Log-probabilities that stand beside their tokens."""

    def change(line: Line) -> Line:
        values = line["logprobs"][1:]
        moved = [*values[1:], -2.0] if by < 0 else [-2.0, *values[:-1]]
        return {**line, "logprobs": [None, *moved]}

    return change


def as_temperature(bench: Bench, temperature: float) -> Callable[[Line], Line]:
    """The log-probabilities of logits that are divided by a temperature."""
    said = {one.tokens: one for one in bench.said}

    def change(line: Line) -> Line:
        sequence = said[tuple(line["tokens"])]
        logits = engine.opened(bench.folder).logits(sequence)
        return {**line, "logprobs": engine.chosen(logits, sequence, temperature)}

    return change


def renormalised(bench: Bench, share: float) -> Callable[[Line], Line]:
    """Of the likeliest tokens alone; a token that is none of them would not have been drawn, and is not counted."""

    def change(line: Line) -> Line:
        (sequence,) = [one for one in bench.said if one.tokens == tuple(line["tokens"])]
        probabilities = engine.opened(bench.folder).logits(sequence)[:-1].softmax(-1)
        ordered, order = probabilities.sort(descending=True)
        kept = (ordered.cumsum(-1) - ordered) < share
        mass = (ordered * kept).sum(-1)
        token = torch.tensor(sequence.tokens[1:])
        there = (order[kept.cumsum(-1).max(-1).indices >= 0] == token[:, None]) & kept
        values = line["logprobs"][1:]
        found = [value - float(m.log()) if bool(t.any()) else None for value, m, t in zip(values, mass, there, strict=True)]
        return {**line, "logprobs": [None, *found]}

    return change


def answer_shifted(line: Line) -> Line:
    """The prompt is right, and the answer stands one token late."""
    values = line["logprobs"]
    return {**line, "logprobs": [*values[: engine.PROMPT], *values[engine.PROMPT - 1 : -1]]}


def exchanged(bench: Bench) -> Callable[[Line], Line]:
    """Each sequence has as many numbers of the next one as that has."""
    turned = zip(bench.right, [*bench.right[1:], bench.right[0]], strict=True)
    following = {tuple(line["tokens"]): other["logprobs"] for line, other in turned}

    def change(line: Line) -> Line:
        count = len(line["tokens"])
        return {**line, "logprobs": [*following[tuple(line["tokens"])], *[None] * count][:count]}

    return change


def of_own_position(bench: Bench) -> Callable[[Line], Line]:
    """Taken from the logits that the token itself has made."""

    def change(line: Line) -> Line:
        (sequence,) = [one for one in bench.said if one.tokens == tuple(line["tokens"])]
        logs = engine.opened(bench.folder).logits(sequence).log_softmax(-1)
        values = logs.gather(1, torch.tensor(sequence.tokens)[:, None])[:, 0].tolist()
        return {**line, "logprobs": [None, *values[1:]]}

    return change


def test_a_right_dump_passes(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """An engine with a cache says what HuggingFace says without one, with each kind of token apart."""
    file = engine.write(tmp_path / "right.jsonl", bench.right)
    done = compared(capsys, file, bench.folder, "--results", str(tmp_path))
    assert (done.code, done.document["says"]) == (0, ["The engine agrees with HuggingFace."])
    assert [check["tokens"] for check in done.document["logprobs"]] == [18, 3, 36]
    assert all(check["largest"] < 1e-13 for check in done.document["logprobs"])
    SCHEMA.validate({"schema": 1, "command": "logprobs", "exit_code": 0, **done.document})
    (suite,) = ElementTree.parse(tmp_path / "logprobs-right.xml").getroot()
    assert [case.get("name") for case in suite.iter("testcase")] == [PREFILL, FIRST, DECODE]


def test_a_cache_that_goes_wrong_shows_from_its_position_on(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """Tokens before it agree, and the sentence says where to look."""

    def spoil(cache: DynamicCache, position: int) -> None:
        if position == 12:
            for layer in cache.layers:
                layer.values[:, :, 3] *= 1.5

    file = engine.write(tmp_path / "dump.jsonl", engine.lines(bench.folder, bench.said, spoil=spoil))
    done = compared(capsys, file, bench.folder)
    assert (done.code, done.status(PREFILL), done.status(FIRST), done.status(DECODE)) == (1, "pass", "pass", "fail")
    assert done.sentence == (
        "The engine's decode tokens are wrong from position 13 of sequence 0 on; its prefill and first decode tokens agree "
        "with HuggingFace: look at the engine's cache and at its decode kernels."
    )
    places = done.document["logprobs"][2]["places"]
    assert [(place["sequence"], place["position"], place["wrong"]) for place in places] == [(0, 13, 3), (1, 13, 11), (2, 13, 7)]


def test_what_goes_wrong_in_the_last_sequence_is_found_there(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """The others agree."""
    last = {**bench.right[2], "logprobs": [*bench.right[2]["logprobs"][:-1], bench.right[2]["logprobs"][-1] - 1e-6]}
    done = compared(capsys, engine.write(tmp_path / "dump.jsonl", [*bench.right[:2], last]), bench.folder)
    assert (done.code, "decode tokens are wrong from position 19 of sequence 2 on" in done.sentence) == (1, True)


@pytest.mark.parametrize(
    ("make", "header", "cause"),
    [
        (lambda bench: shifted(-1), {}, "each is that of the token behind it"),
        (lambda bench: shifted(1), {}, "each is that of the token before it"),
        (of_own_position, {}, "taken from the logits behind each token"),
        (lambda bench: as_temperature(bench, 0.7), {}, "a temperature of 0.7 is in them"),
        (
            lambda bench: lambda line: line,
            {"mode": "processed_logprobs", "temperature": 0.6},
            "the temperature 0.6 is left out",
        ),
        (
            lambda bench: as_temperature(bench, 0.8),
            {"mode": "processed_logprobs", "temperature": 1.25},
            "they fit a temperature of 0.8, and the file says 1.25",
        ),
        (lambda bench: renormalised(bench, 0.9), {}, "make up top_p 0.9"),
        (
            lambda bench: lambda line: {**line, "logprobs": [*line["logprobs"][:-3], 0.0, 0.0, 0.0]},
            {},
            "all of them are 0: nobody computed them (padding",
        ),
        (
            lambda bench: (
                lambda line: {**line, "logprobs": [None, *(value / 0.6931471805599453 for value in line["logprobs"][1:])]}
            ),
            {},
            "logarithms to the base 2",
        ),
        (lambda bench: answer_shifted, {}, "from position 6 of sequence 0 on: each is that of the token before it"),
        (exchanged, {}, "those of sequence 0 are sequence 1's: the order of sequences has changed"),
        (
            lambda bench: lambda line: {**line, "logprobs": [None, *(value / 0.8 for value in line["logprobs"][1:])]},
            {"mode": "processed_logprobs", "temperature": 0.8},
            "divided by the temperature 0.8 behind the softmax",
        ),
    ],
)
def test_a_usual_mistake_is_named(
    bench: Bench,
    capsys: Capsys,
    tmp_path: Path,
    make: Callable[[Bench], Callable[[Line], Line]],
    header: Line,
    cause: str,
) -> None:
    """By trying it on the true numbers."""
    done = one(bench, capsys, tmp_path, make(bench), **header)
    assert done.code == 1
    assert cause in done.sentence


@pytest.mark.parametrize(("computed", "named"), [("bf16", "fp32"), ("fp32", "fp64")])
def test_an_engine_that_computes_in_another_precision_than_it_says(
    bench: Bench, capsys: Capsys, tmp_path: Path, computed: str, named: str
) -> None:
    """It is no other temperature, though one of 1.000 fits."""
    model, said = engine.opened(bench.folder, computed), engine.drawn(1, [24] * 8)
    lines = [
        {"tokens": list(one.tokens), "prompt": one.prompt, "logprobs": engine.chosen(engine.logits(model, one), one)}
        for one in said
    ]
    done = compared(capsys, engine.write(tmp_path / "dump.jsonl", lines, precision=named), bench.folder)
    cause = f"they are as far off as {computed} rounds, and the file says {named}: is {computed} what computes them?"
    assert (done.code, done.sentence.partition(": ")[2]) == (1, f"{cause}.")


def test_no_temperature_is_told_of_one_token(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """One fits any number."""
    line = {"tokens": [5, 6], "prompt": 1, "logprobs": [None, -5.0]}
    done = compared(capsys, engine.write(tmp_path / "dump.jsonl", [line]), bench.folder)
    assert (done.code, "temperature" in done.sentence) == (1, False)


def test_the_right_temperature_is_right(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """Processed log-probabilities are compared with the temperature that the file names."""
    done = one(bench, capsys, tmp_path, as_temperature(bench, 0.7), mode="processed_logprobs", temperature=0.7)
    assert done.code == 0


def test_weights_of_the_step_before_are_named_if_they_are_given(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """Without them, the sentence says where to look, and claims nothing."""
    before = engine.moved(bench.folder, tmp_path / "before")
    file = engine.write(tmp_path / "dump.jsonl", engine.lines(before, bench.said))
    named = compared(capsys, file, bench.folder, "--earlier-hf-model-path", str(before))
    assert named.sentence.endswith("they are those of the earlier weights: the engine was not given the new ones.")
    unnamed = compared(capsys, file, bench.folder)
    assert unnamed.sentence.endswith("look at the weights that it was given, its router, its rotary positions.")


def test_a_router_without_its_bias_is_named_by_the_experts(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """The experts of the file differ by more than rounding, and with them HuggingFace says what the engine says."""
    without = engine.write_folder(tmp_path / "model", bias=False)
    lines = engine.lines(without, bench.said)
    experts = [engine.routed(engine.opened(without), sequence) for sequence in bench.said]
    routed = [{**line, "routed_experts": chosen[:-1]} for line, chosen in zip(lines, experts, strict=True)]
    done = compared(capsys, engine.write(tmp_path / "dump.jsonl", routed), bench.folder)
    assert done.status("Layer 1 Experts of the Engine") == "fail"
    assert "only the routing differs" in done.sentence
    assert "the experts that the scores choose without the expert bias" in done.document["says"][1]


def test_right_experts_pass(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """Each token's, in every layer that has experts."""
    experts = [engine.routed(engine.opened(bench.folder), sequence) for sequence in bench.said]
    routed = [{**line, "routed_experts": chosen} for line, chosen in zip(bench.right, experts, strict=True)]
    done = compared(capsys, engine.write(tmp_path / "dump.jsonl", routed), bench.folder)
    assert (done.code, done.status("Layer 1 Experts of the Engine")) == (0, "pass")


@pytest.mark.parametrize(("wrong", "sentence"), [("engine", "The trainer agrees"), ("trainer", "The engine agrees")])
def test_it_says_which_side_is_wrong(bench: Bench, capsys: Capsys, tmp_path: Path, wrong: str, sentence: str) -> None:
    """The engine and the trainer differ from each other either way; the truth says whose fault that is."""
    key = {"engine": "logprobs", "trainer": "trainer_logprobs"}[wrong]
    lines = [{**line, "trainer_logprobs": line["logprobs"]} for line in bench.right]
    bad = [{**line, key: [None, *(value - 0.01 for value in line["logprobs"][1:])]} for line in lines]
    done = compared(capsys, engine.write(tmp_path / "dump.jsonl", bad), bench.folder)
    assert done.document["says"][-1] == f"{sentence} with HuggingFace: the error is in the {wrong}."
    assert {check["status"] for check in done.document["logprobs"] if "Engine Against Trainer" in check["title"]} == {"fail"}


def test_two_sides_that_are_wrong_alike_point_to_the_folder(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """They agree with each other."""
    other = engine.moved(bench.folder, tmp_path / "other")
    lines = [{**line, "trainer_logprobs": line["logprobs"]} for line in engine.lines(other, bench.said)]
    done = compared(capsys, engine.write(tmp_path / "dump.jsonl", lines), bench.folder)
    assert done.document["says"][-1].endswith("in the same way: is the folder that of the weights that they ran?")


def test_nothing_is_decided_about_a_precision_without_a_floor(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """An engine in fp8 may be right or wrong: that is no pass."""
    done = one(bench, capsys, tmp_path, lambda line: line, precision="fp8")
    assert (done.code, done.document["verdict"]) == (1, "ERROR")
    assert done.sentence == (
        "Nothing is decided about the prefill, first decode and decode tokens of the engine: no floor is measured for an "
        "engine that computes in fp8."
    )


def test_numbers_in_float32_are_compared_as_such(bench: Bench, capsys: Capsys, tmp_path: Path) -> None:
    """A safetensors file holds padded tensors; what float32 rounds is no error, and a hundred times that is one."""
    for name, more, code in (("right", 0.0, 0), ("wrong", 1e-5, 1)):
        padded_to, count = 24, len(bench.right)
        tensors = {
            "tokens": torch.zeros(count, padded_to, dtype=torch.int64),
            "logprobs": torch.full((count, padded_to), float("nan")),
            "mask": torch.zeros(count, padded_to, dtype=torch.bool),
        }
        for row, line in enumerate(bench.right):
            length = len(line["tokens"])
            tensors["tokens"][row, :length] = torch.tensor(line["tokens"])
            tensors["logprobs"][row, 1:length] = torch.tensor(line["logprobs"][1:]) - more
            tensors["mask"][row, 1:length] = True
        numbers = {
            "prompt": torch.tensor([line["prompt"] for line in bench.right]),
            "lengths": torch.tensor([len(line["tokens"]) for line in bench.right]),
        }
        file = tmp_path / f"{name}.safetensors"
        save_file({**tensors, **numbers}, file, metadata={key: str(value) for key, value in engine.HEADER.items()})
        assert compared(capsys, file, bench.folder).code == code
