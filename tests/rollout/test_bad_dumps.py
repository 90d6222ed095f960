"""A file that is no good is refused in one sentence, which says what is wrong and what would work."""

from __future__ import annotations

import contextlib
import json
import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.properties import anything, changed_bytes, few
from tests.rollout import engine
from tests.rollout.conftest import Bench, compared
from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.parameters import parameters
from validation.rollout import command, source
from validation.rollout.dump import Dump, check_weights
from validation.rollout.files import read as read_file
from validation.rollout.made_with import MadeWith
from validation.rollout.source import Source, source_of

GOOD: dict[str, Any] = {"tokens": [5, 6, 7, 8], "prompt": 2, "logprobs": [None, -1.0, -0.5, -2.0]}
RIGHT = "".join(json.dumps(line) + "\n" for line in (engine.HEADER, GOOD)).encode()


def read(file: Path, weights: str | None) -> Dump:
    """The dump of a file of any kind."""
    dump = read_file(file, MadeWith(), engine.MODEL)
    check_weights(dump, weights)
    return dump


def said_of(file: Path, weights: str | None = None) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(UsageError) as refused:
        read(file, weights)
    return str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"logprobs": [None, -1.0, 0.5, -2.0]}, "logprobs[2] is 0.5, above 0; give natural logarithms of probabilities"),
        ({"logprobs": [-1.0, -0.5, -2.0]}, "4 tokens and 3 logprobs; give one for each token; with null for token 0"),
        ({"logprobs": [None, -1.0]}, "4 tokens and 2 logprobs; give one for each token"),
        ({"logprobs": [None, "a", -0.5, -2.0]}, "logprobs is no list of numbers"),
        ({"logprobs": [None, True, -0.5, -2.0]}, "logprobs is no list of numbers"),
        ({"tokens": [5, 6.0, 7, 8]}, "tokens is no list of whole numbers"),
        ({"tokens": [5], "logprobs": [None], "prompt": 1}, "has 1 token; a log-probability needs a token and one before it"),
        ({"prompt": 0}, "prompt is 0 of 4 tokens"),
        ({"prompt": 4}, "prompt is 4 of 4 tokens"),
        ({"prompt": 1.5}, "prompt 1.5 is no whole number"),
        ({"mask": [0.0, 1.0, 0.5, 1.0]}, "mask is no list of true and false"),
        ({"mask": [False, 1, 2, 1]}, "mask is no list of true and false"),
        ({"mask": [False, True, True]}, "4 tokens and 3 values of mask"),
        ({"mask": [True, True, True, True]}, "its mask counts token 0, before which there is none"),
        ({"mask": [False] * 4}, "its mask counts no token"),
        (
            {"logprobs": [None, None, -0.5, -2.0], "mask": [False, True, True, True]},
            "counts token 1, which has none in logprobs",
        ),
        ({"trainer_logprobs": [None, -1.0, 3.0, -2.0]}, "trainer_logprobs[2] is 3, above 0"),
        ({"routed_experts": [[[1, 2]]]}, "4 tokens and 1 routed_experts"),
        ({"routed_experts": [[1, 2]] * 4}, "routed_experts[0] is no list of experts for each layer"),
        ({"log_probs": []}, "has 'log_probs'; it may have tokens, prompt, logprobs"),
    ],
)
def test_a_sequence_that_is_no_good(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Whatever is wrong with one sequence, the sentence names it."""
    sentence = said_of(engine.write(tmp_path / "dump.jsonl", [GOOD, {**GOOD, **change}]))
    assert said in sentence
    assert "sequence 1" in sentence


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"mode": "raw_logits"}, "mode raw_logits: logits are no log-probabilities"),
        ({"mode": None}, "mode None is no text"),
        ({"mode": ""}, "no `mode`; give raw_logprobs"),
        ({"mode": "cooked"}, "mode 'cooked' is unknown"),
        ({"mode": "processed_logprobs"}, "processed log-probabilities without their temperature say nothing"),
        ({"temperature": 0}, "temperature 0; sampling is greedy then"),
        ({"temperature": 1e-320}, "sampling is greedy then"),
        ({"temperature": -1}, "temperature -1; give a number above 0"),
        ({"temperature": "0.7"}, "temperature '0.7' is no number"),
        ({"mode": "processed_logprobs", "temperature": 1, "top_p": 0.9}, "top_p 0.9 leaves a part of the vocabulary out"),
        ({"mode": "processed_logprobs", "temperature": 1, "top_k": 50}, "top_k 50 leaves a part of the vocabulary out"),
        ({"mode": "processed_logprobs", "temperature": 1, "min_p": 0.1}, "min_p 0.1 leaves a part of the vocabulary out"),
        ({"precision": "float"}, "precision 'float' is unknown; give what the engine computes in: fp64, fp32, bf16"),
        ({"version": 2}, "version 2; this Plumbline reads version 1"),
        ({"wieghts": "7"}, "has 'wieghts'; it may have format"),
        ({"weights": 7}, "weights 7 is no text; put it in quotes"),
        ({"format": "other"}, "line 1 is no header"),
    ],
)
def test_a_header_that_is_no_good(tmp_path: Path, header: dict[str, Any], said: str) -> None:
    """Numbers whose meaning is not known are not compared."""
    assert said in said_of(engine.write(tmp_path / "dump.jsonl", [GOOD], **header))


def test_what_the_mask_leaves_out_may_be_anything(tmp_path: Path) -> None:
    """Trainers fill it up with what they like."""
    numbers = torch.tensor([[float("nan"), float("inf"), -1.0, -2.0], [5.0, -1.0, -0.5, float("-inf")]])
    file = tmp_path / "dump.safetensors"
    save_file(tensors(logprobs=numbers), file, {name: str(value) for name, value in engine.HEADER.items()})
    assert [one.counted for one in read_file(file, MadeWith(), engine.MODEL).sequences] == [
        (False, False, True, True),
        (False, True, True),
    ]


def test_top_p_does_not_touch_raw_logprobs(tmp_path: Path) -> None:
    """Those are of the model's own logits, whatever tokens are drawn from."""
    dump = read(engine.write(tmp_path / "dump.jsonl", [GOOD], top_p=0.9, temperature=0.7), None)
    assert dump.applied == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty"),
        (b"\x80\x04", "is not JSON"),
        (b"\xef\xbb\xbf" + RIGHT, "begins with a byte order mark, which JSON does not have; save it as UTF-8 without BOM"),
        (RIGHT.replace(b"-0.5", b"NaN"), "line 2 is not JSON (NaN is no number of JSON)"),
        (RIGHT.replace(b"-0.5", b"-Infinity"), "line 2 is not JSON (-Infinity is no number of JSON)"),
        (RIGHT.splitlines()[0], "has no sequence"),
    ],
)
def test_a_file_that_is_no_dump(tmp_path: Path, text: bytes, said: str) -> None:
    """Whatever is wrong with its text."""
    (tmp_path / "dump.jsonl").write_bytes(text)
    assert said in said_of(tmp_path / "dump.jsonl")


def test_two_versions_of_the_weights_are_refused(tmp_path: Path) -> None:
    """One folder cannot be right for both; nor may it be another than the one that is asked for."""
    file = engine.write(tmp_path / "dump.jsonl", [GOOD, {**GOOD, "weights": "6"}], weights="7")
    assert "sequence 0 was made with weights '7' and sequence 1 with '6'" in said_of(file)
    file = engine.write(tmp_path / "dump.jsonl", [GOOD], weights="7")
    assert "was made with weights '7', and --weights asks for '8'" in said_of(file, "8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": [5, 6, 10**6, 8]}, "token 2 is 1000000, and the vocabulary has"),
        ({"tokens": [5, -1, 7, 8]}, "token 1 is -1, and the vocabulary has"),
        (
            {"routed_experts": [[[0, 1]] * 3] * 4},
            "routed_experts[0] has the shape 3 x 2; this model has 1 layer of experts",
        ),
        ({"routed_experts": [[[0, 1, 2, 99]]] * 4}, "routed_experts[0] names an expert above"),
        ({"routed_experts": [[[0, 1, 2, 2]]] * 4}, "routed_experts[0] names an expert twice"),
    ],
)
def test_what_the_model_does_not_have(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Tokens beyond the vocabulary, and experts of another model."""
    folder = engine.write_folder(tmp_path / "model")
    with pytest.raises(UsageError) as refused:
        command.read(engine.write(tmp_path / "dump.jsonl", [{**GOOD, **change}]), None, folder, MadeWith())
    assert said in str(refused.value)


def test_what_cannot_be_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier weights of another model, a model that does not fit in memory, one whose layer does not, and no GPU."""
    folder = engine.write_folder(tmp_path / "model")
    other = engine.write_folder(tmp_path / "other", replace(engine.MODEL, moe_intermediate_size=16))

    def asked(earlier: Path | None, **given: Any) -> Source:
        return source_of(Namespace(**{"transport": None, "stream": False, **given}), folder, earlier)

    with pytest.raises(UsageError, match="is another model than"):
        asked(other)
    assert asked(folder) == Source(folder)
    with pytest.raises(UsageError, match="--transport tcp is unknown; give one of gloo"):
        asked(None, transport="tcp")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentMissing, match="computes on GPUs, and none is usable here; leave it out for the CPU"):
        asked(None, transport="nccl")
    layer = 8 * max(sum(math.prod(one.shape) for one in parameters(engine.MODEL).values() if one.layer == at) for at in (0, 1))
    embedding = 8 * math.prod(parameters(engine.MODEL)["model.embed_tokens.weight"].shape)
    monkeypatch.setattr(source, "available_memory", lambda: layer + embedding + 1000)
    with pytest.raises(EnvironmentMissing, match=r"of memory are available; add --stream, which holds one layer at a time"):
        asked(None)
    assert asked(None, stream=True).stream
    monkeypatch.setattr(source, "available_memory", lambda: 1000)
    with pytest.raises(EnvironmentMissing, match=r"a layer of .* take a machine with more"):
        asked(None, stream=True)


def test_options_of_megatron_need_megatron(bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """They would be ignored."""
    with pytest.raises(UsageError, match="--precision is about Megatron, which is not asked for; add --layout"):
        compared(capsys, engine.write(tmp_path / "dump.jsonl", bench.right), bench.folder, "--precision", "bf16")


def tensors(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    """Those of a right file: two sequences of four tokens and of three."""
    right = {
        "tokens": torch.tensor([[5, 6, 7, 8], [5, 6, 7, 0]]),
        "logprobs": torch.full((2, 4), -1.0),
        "prompt": torch.tensor([2, 1]),
        "lengths": torch.tensor([4, 3]),
        "mask": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]]).bool(),
    }
    return {**right, **changed}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"mask": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])},
            "sequence 1: its mask counts padding (1 position, the first is 3",
        ),
        ({"mask": torch.ones(2, 4)}, "mask is float32; give bool"),
        ({"tokens": torch.ones(2, 4)}, "tokens is float32; give whole numbers"),
        ({"logprobs": torch.ones(2, 4, dtype=torch.int64)}, "logprobs is int64; give floating-point numbers"),
        ({"logprobs": torch.ones(2, 3)}, "logprobs has the shape (2, 3), and tokens has (2, 4)"),
        ({"logprobs": torch.full((2, 4), float("nan"))}, "sequence 0: logprobs[2] is NaN"),
        ({"logprobs": torch.full((2, 4), float("-inf"))}, "sequence 0: logprobs[2] is -inf"),
        ({"lengths": torch.tensor([4, 9])}, "sequence 1: its length is 9 of 4 tokens"),
        ({"entropy": torch.ones(2, 4)}, "tensor 'entropy' is unknown"),
    ],
)
def test_tensors_that_are_no_good(tmp_path: Path, changed: dict[str, torch.Tensor], said: str) -> None:
    """Padding that counts, other shapes, other types."""
    metadata = {key: str(value) for key, value in engine.HEADER.items()}
    save_file(tensors(**changed), tmp_path / "dump.safetensors", metadata=metadata)
    assert said in said_of(tmp_path / "dump.safetensors")


def test_a_file_of_tensors_that_is_none(tmp_path: Path) -> None:
    """Cut off, without metadata, without a tensor, or not there."""
    path = tmp_path / "dump.safetensors"
    assert "no such file" in said_of(path)
    path.write_bytes(b"\x01\x02")
    assert "is no safetensors file" in said_of(path)
    save_file(tensors(), path)
    assert 'its metadata has no "format"' in said_of(path)
    save_file({"tokens": torch.zeros(1, 2)}, path, metadata={key: str(value) for key, value in engine.HEADER.items()})
    assert "no tensor logprobs" in said_of(path)


@few
@given(text=changed_bytes(RIGHT) | st.builds(lambda value: RIGHT + json.dumps(value).encode(), anything))
def test_properties_of_files(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """Any file is read, or refused in a sentence."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(text)
    with contextlib.suppress(UsageError):
        assert read(path, None).sequences
