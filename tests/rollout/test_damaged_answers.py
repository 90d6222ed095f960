"""Files of engines and trainers with something wrong in them are refused; one that is rounded as it was stored passes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.rollout import engine
from tests.rollout.conftest import Bench, compared
from validation.case.errors import UsageError
from validation.rollout.files import read
from validation.rollout.made_with import MadeWith

MADE = MadeWith("raw_logprobs", None, "fp64")
MODE = ("--mode", "raw_logprobs", "--engine-precision", "fp64")


def refused(path: Path, made: MadeWith = MADE) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(UsageError) as found:
        read(path, made, engine.MODEL)
    return str(found.value)


def response(**change: Any) -> dict[str, Any]:
    """What vLLM returns."""
    logprobs = {"tokens": ["token_id:7", "token_id:8"], "token_logprobs": [-1.0, -2.0]}
    return {"choices": [{"prompt_token_ids": [5, 6], "logprobs": logprobs, **change}]}


def npy(header: str) -> str:
    """An .npy with this header and no numbers, as vLLM sends it."""
    text = header.encode().ljust(118) + b"\n"
    return base64.b64encode(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text).decode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"routed_experts": "é"}, "is no base64"),
        ({"routed_experts": base64.b64encode(b"PK\3\4" + b"\0" * 40).decode()}, "is no .npy (BadZipFile)"),
        ({"routed_experts": npy("{'descr':'<i4','fortran_order':False,'shape':(1000000,1000000,100)}")}, "(MemoryError)"),
        ({"routed_experts": npy("(((")}, "is no .npy"),
        ({"routed_experts": npy("{'descr':'<i4','fortran_order':False,'shape':(0,1,4)}")}, "4 tokens and 0 routed_experts"),
        ({"logprobs": {"tokens": ["token_id:²"], "token_logprobs": [-1.0]}}, "names its tokens by text"),
        ({"logprobs": {"tokens": ["token_id:" + "9" * 5000], "token_logprobs": [-1.0]}}, "names its tokens by text"),
    ],
)
def test_responses_with_damage(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Whatever stands where experts or tokens should, a sentence says so."""
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(response(**change)))
    assert said in refused(path)


def test_a_document_is_read_by_what_it_holds(tmp_path: Path) -> None:
    """A list in one line, a document over many lines, and JSON lines are read whatever the file is called."""
    path = tmp_path / "answers.jsonl"
    for text in (json.dumps([response()]), json.dumps(response(), indent=1)):
        path.write_text(text)
        assert len(read(path, MADE, engine.MODEL).sequences) == 1
    own = tmp_path / "own.json"
    engine.write(own, [{"tokens": [5, 6, 7], "prompt": 1, "logprobs": [None, -1.0, -2.0]}])
    assert read(own, MadeWith(), engine.MODEL).engine == "small"


def test_what_is_no_file_of_log_probabilities(tmp_path: Path) -> None:
    """A folder and an empty list are called what they are, also if the command says how the numbers were made."""
    assert "is no regular file" in refused(tmp_path)
    path = tmp_path / "empty.json"
    path.write_text("[]")
    assert "nor a response of vLLM or SGLang" in refused(path)


def test_a_trainer_in_some_sequences_alone(tmp_path: Path) -> None:
    """Else the sequences without would fail as not finite, and the numbers that are there are right."""
    one = {"tokens": [5, 6, 7], "prompt": 1, "logprobs": [None, -1.0, -2.0]}
    path = engine.write(tmp_path / "dump.jsonl", [one, {**one, "trainer_logprobs": one["logprobs"]}])
    assert "sequence 1 has trainer_logprobs and sequence 0 has none" in refused(path, MadeWith())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight_versions": 3}, "weight_versions is no list"),
        ({"rollout_log_probs": [-(10**400)] * 2}, "a log-probability is a number of"),
        ({"loss_mask": [0.5, 1]}, "its mask has other values than 0 and 1"),
    ],
)
def test_samples_with_damage(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Plain values of slime's have any type."""
    sample = {"tokens": [5, 6, 7, 8], "response_length": 2, "rollout_log_probs": [-1.0, -2.0], **change}
    torch.save({"samples": [sample]}, tmp_path / "rollout.pt")
    assert said in refused(tmp_path / "rollout.pt")


def batch(bench: Bench, **change: Any) -> dict[str, torch.Tensor]:
    """What a right engine says, as verl's tensors: prompts of the same length, answers with padding behind them."""
    width, answer = max(engine.LENGTHS), max(engine.LENGTHS) - engine.PROMPT
    rows = [(torch.tensor(one["tokens"]), torch.tensor(one["logprobs"][engine.PROMPT :]).double()) for one in bench.right]
    ids = torch.stack([torch.nn.functional.pad(tokens, (0, width - len(tokens))) for tokens, _ in rows])
    real = torch.arange(width) < torch.tensor(engine.LENGTHS)[:, None]
    said = torch.stack([torch.nn.functional.pad(values, (0, answer - len(values))) for _, values in rows])
    tensors = {"input_ids": ids, "attention_mask": real, "responses": ids[:, -answer:], "rollout_log_probs": said}
    return {name: tensor.contiguous().clone() for name, tensor in {**tensors, **change}.items()}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("responses", torch.ones(3, 18, dtype=torch.long), "its responses are not the tokens at the end of its input_ids"),
        ("loss_mask", torch.ones(1, 18), "loss_mask has the shape (1, 18)"),
        ("routed_experts", torch.ones(5, dtype=torch.long), "routed_experts has the shape (5,)"),
        ("routed_experts", torch.ones(1, 24, 1, 4, dtype=torch.long), "routed_experts has the shape (1, 24, 1, 4)"),
        ("rollout_log_probs", torch.zeros(3, 18, dtype=torch.complex64), "rollout_log_probs is complex64"),
    ],
)
def test_batches_with_damage(tmp_path: Path, bench: Bench, name: str, value: torch.Tensor, said: str) -> None:
    """Tensors that do not belong together would be compared with tokens that they are not of."""
    save_file(batch(bench, **{name: value}), tmp_path / "batch.safetensors")
    assert said in refused(tmp_path / "batch.safetensors")


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_a_right_engine_stored_in_few_bits(
    tmp_path: Path, bench: Bench, capsys: pytest.CaptureFixture[str], kind: torch.dtype
) -> None:
    """The rounding of what is stored is no error of the engine: of bfloat16 it is 2**-8 of a number."""
    tensors = batch(bench)
    tensors["rollout_log_probs"] = tensors["rollout_log_probs"].to(kind)
    save_file(tensors, tmp_path / "batch.safetensors")
    assert compared(capsys, tmp_path / "batch.safetensors", bench.folder, *MODE).code == 0


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 400])
def test_metadata_that_is_no_number(tmp_path: Path, text: str) -> None:
    """Metadata of a safetensors file are any texts."""
    tensors = {"tokens": torch.ones(1, 3, dtype=torch.long), "logprobs": -torch.ones(1, 3)}
    tensors |= {"prompt": torch.ones(1, dtype=torch.long), "lengths": torch.full((1,), 3)}
    header = {name: str(value) for name, value in engine.HEADER.items()}
    save_file(tensors, tmp_path / "dump.safetensors", metadata={**header, "temperature": text})
    assert "is no number" in refused(tmp_path / "dump.safetensors", MadeWith())
