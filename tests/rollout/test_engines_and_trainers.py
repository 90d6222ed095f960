"""What vLLM and SGLang return, and what slime and verl leave, is read as it is; what it does not say is asked for."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from safetensors.torch import save_file

from tests.properties import changed_json, few, quick
from tests.rollout import engine
from tests.rollout.conftest import Bench, compared
from validation.case.errors import UsageError
from validation.rollout.dump import Dump, check_weights
from validation.rollout.files import read
from validation.rollout.made_with import MadeWith

PROMPT, ANSWER = [5, 6, 7], [8, 9]
BEFORE, VALUES = [None, -1.0, -2.0], [-0.5, -0.25]
EXPERTS = numpy.arange(4 * 2 * 4, dtype=numpy.int32).reshape(4, 2, 4) % 8
MADE = MadeWith("raw_logprobs", None, "bf16")
OWN_LAYER = tuple(tuple(map(tuple, row[1:])) for row in EXPERTS.tolist())


def read_as(path: Path, made: MadeWith = MADE) -> Dump:
    """The dump of a file, for a model of two layers of which the second has experts."""
    return read(path, made, engine.MODEL)


def is_the_sequence(dump: Dump, prompt: bool = True, routed: bool = True) -> None:
    """The one sequence that every file here holds; with the log-probabilities of its prompt, and its experts, or without."""
    (one,) = dump.sequences
    assert (one.tokens, one.prompt) == ((5, 6, 7, 8, 9), 3)
    assert one.logprobs == (*(BEFORE if prompt else [None] * 3), *VALUES)
    assert one.counted == (False, prompt, prompt, True, True)
    assert one.routed == (OWN_LAYER if routed else None)


def npy(array: Any) -> str:
    """As vLLM sends an array."""
    file = io.BytesIO()
    numpy.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def completion(**changed: Any) -> dict[str, Any]:
    """A response of vLLM's /v1/completions."""
    own = [
        {str(token): {"logprob": value, "rank": 1}, "77": {"logprob": -9.0}}
        for token, value in zip(PROMPT, BEFORE, strict=True)
    ]
    choice = {
        "index": 0,
        "text": "ab",
        "logprobs": {"tokens": ["a", "b"], "token_logprobs": VALUES, "text_offset": [0, 1], "top_logprobs": [{}, {}]},
        "token_ids": ANSWER,
        "prompt_token_ids": PROMPT,
        "prompt_logprobs": [None, *own[1:]],
        "routed_experts": npy(EXPERTS),
    }
    return {"object": "text_completion", "choices": [{**choice, **changed}]}


def chat(**changed: Any) -> dict[str, Any]:
    """A response of vLLM's /v1/chat/completions, which names tokens by their ids."""
    content = [{"token": f"token_id:{token}", "logprob": value} for token, value in zip(ANSWER, VALUES, strict=True)]
    return {"choices": [{"index": 0, "logprobs": {"content": content}, **changed}], "prompt_token_ids": PROMPT}


def generate(**changed: Any) -> dict[str, Any]:
    """A response of SGLang's /generate."""
    meta = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "weight_version": "120",
        "input_token_logprobs": [[value, token, None] for token, value in zip(PROMPT, BEFORE, strict=True)],
        "output_token_logprobs": [[value, token, None] for token, value in zip(ANSWER, VALUES, strict=True)],
        "routed_experts": base64.b64encode(EXPERTS.tobytes()).decode(),
    }
    return {"text": "ab", "meta_info": {**meta, **changed}}


def written(place: Path, *values: Any) -> Path:
    """JSON, one value a line."""
    path = place / "responses.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_completions_of_vllm(tmp_path: Path) -> None:
    """Tokens by their ids, prompt log-probabilities among those of other tokens, experts of every layer as .npy."""
    dump = read_as(written(tmp_path, completion()))
    is_the_sequence(dump)
    assert (dump.engine, dump.mode, dump.precision) == ("vllm", "raw_logprobs", "bf16")
    path = tmp_path / "one.json"
    path.write_text(json.dumps([completion(), completion()], indent=1))
    assert len(read_as(path).sequences) == 2


def test_batches_and_lists_of_responses(tmp_path: Path) -> None:
    """Lines of vLLM's `run-batch`, and lists of SGLang's, one a line."""
    batch = {"id": "a", "custom_id": "b", "response": {"status_code": 200, "body": completion()}, "error": None}
    assert len(read_as(written(tmp_path, batch, batch)).sequences) == 2
    assert len(read_as(written(tmp_path, [generate(), generate()], [generate()])).sequences) == 3


def test_a_request_that_was_given_up_does_not_keep_the_others_from_being_compared(tmp_path: Path) -> None:
    """It keeps its number, and counts nothing but what is known of its prompt."""
    given_up = completion(token_ids=[], logprobs=None, prompt_logprobs=None, routed_experts=None)
    dump = read_as(written(tmp_path, given_up, completion()))
    assert (dump.idle, [sum(one.counted) for one in dump.sequences]) == (1, [0, 4])
    scored = read_as(written(tmp_path, generate(output_token_logprobs=[], routed_experts=None)))
    assert scored.sequences[0].counted == (False, True, True)
    with pytest.raises(UsageError, match="no token of its 1 sequence counts; compare a file with answers"):
        read_as(written(tmp_path, given_up))


def test_chats_of_vllm(tmp_path: Path) -> None:
    """Tokens are named by their ids, and nothing is known of the prompt."""
    is_the_sequence(read_as(written(tmp_path, chat())), prompt=False, routed=False)


def test_responses_of_sglang(tmp_path: Path) -> None:
    """Triples of number, token and text; experts as bare int32; the version of the weights."""
    dump = read_as(written(tmp_path, generate()))
    is_the_sequence(dump)
    assert (dump.engine, dump.sequences[0].weights) == ("sglang", "120")
    other = read_as(written(tmp_path, {**generate(input_token_logprobs=[], routed_experts=None), "input_ids": PROMPT}))
    is_the_sequence(other, prompt=False, routed=False)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (completion(token_ids=None), "names its tokens by text ('a'), which is ambiguous; ask for return_token_ids"),
        (completion(prompt_token_ids=None), "prompt_token_ids is no list of token ids"),
        (completion(prompt_logprobs=[None, {"1": {}}, {}]), "has an entry without token 6, which stands there in the prompt"),
        (completion(prompt_logprobs=[None]), "prompt_logprobs has not one entry for each of the 3 tokens"),
        (completion(logprobs=None), "has no logprobs"),
        (completion(token_ids=[8, 9, 10]), "has 3 tokens in its answer and 2 log-probabilities"),
        (completion(routed_experts="!!"), "routed_experts is no base64"),
        (completion(routed_experts=base64.b64encode(b"abc").decode()), "routed_experts is no .npy"),
        (completion(routed_experts=npy(numpy.zeros((2, 2)))), "no array of whole numbers [positions, layers, k]"),
        (generate(output_token_logprobs=[[1.5, 8, None], [-0.5, 9, None]]), "logprobs[3] is 1.5, above 0"),
        (generate(weight_version=["7", "8"]), "was made with several weights (7, 8)"),
        (generate(prompt_tokens=9), "has 9 tokens in its prompt and tells 3 of them; ask for logprob_start_len 0"),
        (generate(output_token_logprobs=None), "output_token_logprobs is no list of [log-probability, token, text]"),
        (
            generate(routed_experts="AAAA"),
            "routed_experts has 3 bytes, and 5 tokens of 2 layers with 4 experts a token make 160 or 128",
        ),
        ({**generate(), "input_ids": [1, 2, 3]}, "the tokens of input_token_logprobs are not those of input_ids"),
    ],
)
def test_responses_that_are_no_good(tmp_path: Path, value: Any, said: str) -> None:
    """One sentence says what is missing, and what to ask the engine for."""
    with pytest.raises(UsageError) as refused:
        read_as(written(tmp_path, value))
    assert said in str(refused.value)


def test_responses_of_two_engines_are_refused(tmp_path: Path) -> None:
    """One file is of one engine."""
    with pytest.raises(UsageError, match="response 1 is no response of vllm, as the first one is"):
        read_as(written(tmp_path, completion(), generate()))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (MadeWith(), "does not say which log-probabilities it has; add --mode raw_logprobs"),
        (MadeWith("raw_logprobs"), "does not say what it computes in; add --engine-precision"),
        (MadeWith("processed_logprobs", None, "bf16"), "processed log-probabilities without their temperature say nothing"),
        (MadeWith("processed_logprobs", 0.0, "bf16"), "temperature 0; sampling is greedy then"),
    ],
)
def test_what_a_response_does_not_say_is_asked_for(tmp_path: Path, made: MadeWith, said: str) -> None:
    """No default stands in for it."""
    with pytest.raises(UsageError) as refused:
        read_as(written(tmp_path, completion()), made)
    assert said in str(refused.value)


@pytest.mark.parametrize(("temperature", "prompt"), [(1.0, True), (0.7, False)])
def test_a_prompt_is_not_divided_by_the_temperature(tmp_path: Path, temperature: float, prompt: bool) -> None:
    """Both engines say of it what the model's own logits say, so that with another temperature it cannot be compared."""
    for value in (completion(), generate()):
        (one,) = read_as(written(tmp_path, value), MadeWith("processed_logprobs", temperature, "bf16")).sequences
        assert one.counted == (False, prompt, prompt, True, True)


def test_our_own_file_says_it_itself(bench: Bench, tmp_path: Path) -> None:
    """Two answers could contradict each other."""
    with pytest.raises(UsageError, match="says itself how it was made; leave out --mode"):
        read_as(engine.write(tmp_path / "dump.jsonl", bench.right))


def sample(**changed: Any) -> dict[str, Any]:
    """A sample of slime's, as its to_dict writes it."""
    return {
        "tokens": [*PROMPT, *ANSWER],
        "response_length": 2,
        "rollout_log_probs": VALUES,
        "rollout_routed_experts": EXPERTS,
        "loss_mask": [1, 1],
        "weight_versions": ["7"],
        "status": "completed",
        **changed,
    }


ROLLOUT = {
    "tokens": [[*PROMPT, *ANSWER]],
    "response_lengths": [2],
    "loss_masks": [[1, 1]],
    "rollout_log_probs": [VALUES],
    "log_probs": [[-0.5, -1.0]],
}


def saved(place: Path, value: Any) -> Path:
    """A `.pt`."""
    torch.save(value, place / "dump.pt")
    return place / "dump.pt"


def test_rollouts_of_slime(tmp_path: Path) -> None:
    """--save-debug-rollout-data: samples with an array of experts and the version of the weights."""
    dump = read_as(saved(tmp_path, {"rollout_id": 3, "samples": [sample()]}))
    is_the_sequence(dump, prompt=False)
    assert (dump.engine, dump.sequences[0].weights) == ("slime", "7")


def test_samples_that_count_nothing_keep_their_numbers(tmp_path: Path) -> None:
    """One that was given up, without an answer and a version of the weights, and one whose mask is empty."""
    aborted = sample(
        tokens=PROMPT, response_length=0, rollout_log_probs=None, rollout_routed_experts=None, loss_mask=[], weight_versions=[]
    )
    masked = sample(loss_mask=[0, 0], rollout_log_probs=[float("nan"), 0.0], weight_versions=["6"])
    dump = read_as(saved(tmp_path, {"samples": [aborted, masked, sample()]}))
    assert (dump.idle, [sum(one.counted) for one in dump.sequences]) == (2, [0, 0, 2])
    check_weights(dump, "7")


def test_training_data_of_slime(tmp_path: Path) -> None:
    """--save-debug-train-data: the trainer's log-probabilities, too, as tensors."""
    data = {
        "tokens": [torch.tensor([*PROMPT, *ANSWER])],
        "response_lengths": [2],
        "loss_masks": [torch.tensor([1, 1])],
        "rollout_log_probs": [torch.tensor(VALUES)],
        "log_probs": [torch.tensor([-0.5, -1.0])],
    }
    dump = read_as(saved(tmp_path, {"rollout_id": 3, "rank": 0, "rollout_data": data}))
    is_the_sequence(dump, prompt=False, routed=False)
    assert dump.sequences[0].trainer == (None, None, None, -0.5, -1.0)


def batch(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a batch of verl's: one token of padding before the prompt, two behind the answer."""
    right = {
        "input_ids": torch.tensor([[0, *PROMPT, *ANSWER, 0, 0]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1, 0, 0]]),
        "responses": torch.tensor([[*ANSWER, 0, 0]]),
        "rollout_log_probs": torch.tensor([[*VALUES, 0.0, 0.0]]),
        "old_log_probs": torch.tensor([[-0.5, -1.0, 0.0, 0.0]]),
        "response_mask": torch.tensor([[1, 1, 0, 0]]),
    }
    return {**right, **changed}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_batches_of_verl(tmp_path: Path, suffix: str) -> None:
    """Padding on both sides goes; old_log_probs are the trainer's."""
    path = tmp_path / f"dump.{suffix}"
    torch.save(batch(), path) if suffix == "pt" else save_file(batch(), path)
    dump = read_as(path)
    is_the_sequence(dump, prompt=False, routed=False)
    assert (dump.engine, dump.sequences[0].trainer) == ("verl", (None, None, None, -0.5, -1.0))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (batch(response_mask=torch.ones(1, 4)), "its mask counts padding (2 positions behind the 2 tokens of the answer)"),
        (batch(attention_mask=torch.tensor([[0, 1, 1, 1, 1, 0, 1, 0]])), "its answer has padding between its tokens"),
        ({"input_ids": torch.zeros(1, 2)}, "neither samples nor rollout_data nor the tensor attention_mask"),
        ({"samples": [sample(weight_versions=["7", "8"])]}, "was made with several weights (7, 8)"),
        ({"samples": [sample(rollout_log_probs=[-0.5])]}, "2 tokens in its answer and 1 log-probabilities"),
        ({"samples": [sample(rollout_routed_experts=[1, 2])]}, "its routed experts are no [positions, layers, k]"),
        ({"samples": [3]}, "sample 0 is no sample"),
        (
            {
                **batch(responses=torch.zeros(1, 9), rollout_log_probs=torch.zeros(1, 9)),
                "old_log_probs": None,
                "response_mask": None,
            },
            "responses has the shape (1, 9), and input_ids has (1, 8)",
        ),
        (batch(old_log_probs=torch.zeros(4)), "old_log_probs has the shape (4,), and input_ids has (1, 8)"),
        ({"samples": []}, "has no sequence with log-probabilities"),
        ([1], "has a list"),
        ({"rollout_data": {"tokens": []}}, "rollout_data has no response_lengths for each of 0 samples"),
    ],
)
def test_trainers_files_that_are_no_good(tmp_path: Path, value: Any, said: str) -> None:
    """Padding that counts, several versions of the weights, and whatever else is another thing."""
    with pytest.raises(UsageError) as refused:
        read_as(saved(tmp_path, value))
    assert said in str(refused.value)


def plain(value: Any) -> Any:
    """Without arrays, as JSON has it."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))


@quick
@given(value=changed_json(completion()) | changed_json(generate()) | changed_json(chat()))
def test_properties_of_responses(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    """Any response is read, or refused in a sentence."""
    with contextlib.suppress(UsageError):
        assert read_as(written(tmp_path_factory.getbasetemp(), value)).sequences


@few
@given(value=changed_json({"samples": [plain(sample())]}) | changed_json({"rollout_data": ROLLOUT}))
def test_properties_of_trainers_files(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    """Any file of slime's is read, or refused in a sentence."""
    with contextlib.suppress(UsageError):
        assert read_as(saved(tmp_path_factory.getbasetemp(), value)).sequences


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("made-by-the-file"),)


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle could call anything."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="of tensors and plain values"):
        read_as(saved(tmp_path, {"samples": [_Code()]}))
    assert not (tmp_path / "made-by-the-file").exists()


def test_what_sglang_returns_is_compared(bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From the command line, in fp64, with the options that say what the file does not."""
    responses = []
    for line in bench.right:
        pairs = [[value, token, None] for token, value in zip(line["tokens"], line["logprobs"], strict=True)]
        meta = {"prompt_tokens": 6, "input_token_logprobs": pairs[:6], "output_token_logprobs": pairs[6:]}
        responses.append({"text": "", "meta_info": meta})
    words = ("--mode", "raw_logprobs", "--engine-precision", "fp64")
    done = compared(capsys, written(tmp_path, *responses), bench.folder, *words)
    assert (done.code, [check["tokens"] for check in done.document["logprobs"]]) == (0, [18, 3, 36])
