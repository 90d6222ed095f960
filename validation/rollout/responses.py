"""Reading what vLLM and SGLang return: their responses as a JSON document, a list of them, or one a line.

vLLM: `/v1/completions` and `/v1/chat/completions` with `logprobs`, `return_token_ids`, and `prompt_logprobs` for the prompt
(vllm/entrypoints/openai/completion/protocol.py). SGLang: `/generate` with `return_logprob` and `logprob_start_len: 0`
(`meta_info`). Routed experts are base64: an .npy of vLLM's, bare int32 of SGLang's.
"""

from __future__ import annotations

import base64
import io
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import parsed, quoted, read_bytes, read_lines, shown
from validation.rollout.dump import PROCESSED, Dump, Routes, Said
from validation.rollout.made_with import MadeWith
from validation.rollout.own import LARGEST, REMEDY, VALUES

_REMEDY = "docs/logprobs.md#what-engines-return says what to ask the engine for"
_TOKEN = "token_id:"
_DAMAGED = (ValueError, EOFError, OSError, MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile)
"""What numpy raises of bytes that are no array."""


def values(path: Path) -> Iterator[Any]:
    """The JSON values of a file: a document, the members of a list, or one a line, read one at a time. Raises UsageError."""
    lines = read_lines(path, LARGEST, REMEDY)
    first = next(lines, b"{}")
    if not _whole(first):
        found: Iterator[Any] = iter((parsed(read_bytes(path, LARGEST, REMEDY), str(path), VALUES, REMEDY),))
    else:
        found = (parsed(line, f"{path}, line {at}", VALUES, REMEDY) for at, line in enumerate(chain([first], lines), start=1))
    return (_body(one) for value in found for one in (value if isinstance(value, list) else [value]))


def _whole(line: bytes) -> bool:
    """Whether a line is a JSON object or list by itself, as far as its ends tell."""
    return (line[:1], line[-1:]) in ((b"{", b"}"), (b"[", b"]"))


def _body(value: Any) -> Any:
    """The response in a line of what vLLM's `run-batch` writes; any other value as it is."""
    response = value.get("response") if isinstance(value, dict) and "custom_id" in value else None
    return response.get("body", value) if isinstance(response, dict) else value


def kind_of(value: object) -> str:
    """`vllm` or `sglang` by what a response has, empty for another."""
    if isinstance(value, dict) and "choices" in value:
        return "vllm"
    return "sglang" if isinstance(value, dict) and "meta_info" in value else ""


def read(path: Path, engine: str, found: Iterable[Any], made: MadeWith, layers: int, k: int) -> Dump:
    """The dump of an engine's responses. `layers` and `k` are the model's, which cut bare routed experts. Raises UsageError."""
    sequences: list[Said] = []
    for number, value in enumerate(found):
        source = f"{path}, response {number}"
        if kind_of(value) != engine:
            raise UsageError(f"{source} is no response of {engine}, as the first one is; {_REMEDY}")
        sequences += _vllm(source, value) if engine == "vllm" else [_sglang(source, value, layers, k)]
    if made.mode == PROCESSED and made.temperature != 1:
        sequences = [_of_answer_alone(one) for one in sequences]
    return made.dump(path, engine, sequences)


def _of_answer_alone(one: Said) -> Said:
    """Both engines divide by the temperature what they draw, and not the prompt: its tokens are not compared."""
    return replace(one, counted=tuple(counts and at >= one.prompt for at, counts in enumerate(one.counted)))


def said(
    source: str,
    prompt: list[int],
    before: list[float | None],
    answer: list[int],
    values: list[float | None],
    routed: Routes | None = None,
    weights: str = "",
) -> Said:
    """A sequence of its prompt, with what is known of its tokens, and of its answer. Raises UsageError."""
    if not prompt:
        raise UsageError(f"{source} has no tokens of its prompt; {_REMEDY}")
    if len(values) != len(answer):
        raise UsageError(
            f"{source} has {many(len(answer), 'token')} in its answer and {len(values)} log-probabilities; {_REMEDY}"
        )
    logprobs = (*(before or [None] * len(prompt)), *values)
    counted = tuple(at > 0 and one is not None for at, one in enumerate(logprobs))
    return Said((*prompt, *answer), len(prompt), (None, *logprobs[1:]), counted, routed=routed, weights=weights)


# vLLM


def _vllm(source: str, value: Mapping[str, Any]) -> Iterator[Said]:
    choices = value["choices"]
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise UsageError(f"{source}: choices is no list of objects; {_REMEDY}")
    for choice in choices:
        prompt = _ids(source, "prompt_token_ids", choice.get("prompt_token_ids") or value.get("prompt_token_ids"))
        of_prompt = choice.get("prompt_logprobs") or value.get("prompt_logprobs")
        before = _of_prompt(source, prompt, of_prompt) if of_prompt else []
        silent = choice.get("token_ids") == []
        names, logprobs = ([], []) if silent else _of_answer(source, choice.get("logprobs"))
        answer = (
            _ids(source, "token_ids", choice["token_ids"]) if choice.get("token_ids") else [_id(source, one) for one in names]
        )
        routed = _npy(source, choice["routed_experts"]) if choice.get("routed_experts") else None
        yield said(source, prompt, before, answer, logprobs, routed)


def _of_answer(source: str, logprobs: object) -> tuple[list[str], list[float | None]]:
    """Names of tokens and their log-probabilities, of a completion or of a chat."""
    if not isinstance(logprobs, dict):
        raise UsageError(f"{source} has no logprobs; {_REMEDY}")
    if isinstance(logprobs.get("content"), list):
        content = [one if isinstance(one, dict) else {} for one in logprobs["content"]]
        return [str(one.get("token")) for one in content], [_float(source, one.get("logprob")) for one in content]
    tokens, found = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(found, list):
        raise UsageError(f"{source}: logprobs has no tokens and token_logprobs; {_REMEDY}")
    return list(map(str, tokens)), [_float(source, one) for one in found]


def _of_prompt(source: str, prompt: list[int], found: object) -> list[float | None]:
    """Of each token of the prompt; vLLM has those of the likeliest tokens beside it."""
    if not isinstance(found, list) or len(found) != len(prompt):
        raise UsageError(
            f"{source}: prompt_logprobs has not one entry for each of the {many(len(prompt), 'token')} of the prompt"
        )
    values: list[float | None] = []
    for token, entry in zip(prompt, found, strict=True):
        own = entry.get(str(token)) if isinstance(entry, dict) else None
        if entry is not None and not isinstance(own, dict):
            raise UsageError(f"{source}: prompt_logprobs has an entry without token {token}, which stands there in the prompt")
        values.append(None if own is None else _float(source, own.get("logprob")))
    return values


def _id(source: str, name: str) -> int:
    number = name.removeprefix(_TOKEN)
    if not name.startswith(_TOKEN) or not (number.isascii() and number.isdigit() and len(number) < 20):
        raise UsageError(f"{source} names its tokens by text ({quoted(name)}), which is ambiguous; ask for return_token_ids")
    return int(number)


# SGLang


def _sglang(source: str, value: Mapping[str, Any], layers: int, k: int) -> Said:
    meta = value["meta_info"]
    if not isinstance(meta, dict):
        raise UsageError(f"{source}: meta_info is no object; {_REMEDY}")
    answer, logprobs = _pairs(source, "output_token_logprobs", meta.get("output_token_logprobs"))
    given = meta.get("input_token_logprobs") or []
    tokens, before = _pairs(source, "input_token_logprobs", given)
    prompt = _ids(source, "input_ids", value["input_ids"]) if "input_ids" in value else tokens
    length = meta.get("prompt_tokens", len(prompt))
    if len(prompt) != length:
        raise UsageError(
            f"{source} has {many(length, 'token')} in its prompt and tells {len(prompt)} of them; ask for logprob_start_len 0"
        )
    if tokens and tokens != prompt[len(prompt) - len(tokens) :]:
        raise UsageError(f"{source}: the tokens of input_token_logprobs are not those of input_ids")
    missing: list[float | None] = [None] * (len(prompt) - len(before))
    bare = meta.get("routed_experts")
    routed = None if bare is None else _int32(source, bare, len(prompt) + len(answer), layers, k)
    return said(source, prompt, missing + before, answer, logprobs, routed, version_of(source, meta.get("weight_version")))


def version_of(source: str, found: object) -> str:
    """The version of the weights, of a text, a number or a list of them; empty for none. Raises UsageError for several."""
    versions = list(dict.fromkeys(map(str, found if isinstance(found, list) else [] if found is None else [found])))
    if len(versions) > 1:
        named = ", ".join(shown(version) for version in versions[:4])
        raise UsageError(f"{source} was made with several weights ({named}); no folder is right for all of its tokens")
    return versions[0] if versions else ""


def _pairs(source: str, name: str, found: object) -> tuple[list[int], list[float | None]]:
    """Tokens and log-probabilities of [log-probability, token, text]."""
    if not isinstance(found, list) or any(not isinstance(one, list) or len(one) not in (2, 3) for one in found):
        raise UsageError(f"{source}: {name} is no list of [log-probability, token, text]; {_REMEDY}")
    return _ids(source, name, [one[1] for one in found]), [_float(source, one[0]) for one in found]


def _int32(source: str, text: object, tokens: int, layers: int, k: int) -> Routes:
    """[positions, layers, k] of bare numbers; positions are all, or all but the last."""
    import numpy

    data = _bytes(source, text)
    if not k or not layers or len(data) not in (4 * tokens * layers * k, 4 * (tokens - 1) * layers * k):
        raise UsageError(
            f"{source}: routed_experts has {many(len(data), 'byte')}, and {many(tokens, 'token')} of "
            f"{many(layers, 'layer')} with {many(k, 'expert')} a token "
            f"make {4 * tokens * layers * k} or {4 * (tokens - 1) * layers * k}"
        )
    return nested(numpy.frombuffer(data, dtype="<i4").reshape(-1, layers, k))


def _npy(source: str, text: object) -> Routes:
    import numpy

    try:
        found = numpy.load(io.BytesIO(_bytes(source, text)), allow_pickle=False)
    except _DAMAGED as error:
        raise UsageError(f"{source}: routed_experts is no .npy ({type(error).__name__}); {_REMEDY}") from None
    if getattr(found, "ndim", 0) != 3 or found.dtype.kind not in "iu":
        raise UsageError(f"{source}: routed_experts is no array of whole numbers [positions, layers, k]; {_REMEDY}")
    return nested(found)


def nested(array: Any) -> Routes:
    """An array [positions, layers, k] as tuples."""
    return tuple(tuple(map(tuple, row)) for row in array.tolist())


def _bytes(source: str, text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "!", validate=True)
    except ValueError:
        raise UsageError(f"{source}: routed_experts is no base64; {_REMEDY}") from None


def _ids(source: str, name: str, found: object) -> list[int]:
    if not isinstance(found, list) or any(type(one) is not int for one in found):
        raise UsageError(f"{source}: {name} is no list of token ids; {_REMEDY}")
    return found


def _float(source: str, value: object) -> float | None:
    if value is not None and type(value) not in (int, float):
        raise UsageError(f"{source}: a log-probability is {quoted(value)}; {_REMEDY}")
    return None if value is None else float(value)  # type: ignore[arg-type]
