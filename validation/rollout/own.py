"""Reading Plumbline's own file of log-probabilities, as JSON lines or safetensors (docs/logprobs.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import parsed, quoted, read_lines, shown
from validation.rollout.dump import RESOLUTIONS, Dump, Routes, Said, check_header, check_length, check_sequence

FORMAT = "plumbline-logprobs"
VERSION = 1
LARGEST, VALUES = 1 << 30, 1 << 26
REMEDY = "docs/logprobs.md says how such a file is written"
_HEADER = (
    *("format", "version", "mode", "temperature", "top_p", "top_k", "min_p"),
    *("precision", "trainer_precision", "engine", "weights"),
)
_SEQUENCE = ("tokens", "prompt", "logprobs", "mask", "trainer_logprobs", "routed_experts", "weights")


def read(path: Path) -> Dump:
    """The dump in a file. Raises UsageError."""
    return _safetensors(path) if path.suffix == ".safetensors" else _lines(path)


def is_own(value: object) -> bool:
    """Whether the first line of a file is our header."""
    return isinstance(value, dict) and value.get("format") == FORMAT


def _lines(path: Path) -> Dump:
    lines = read_lines(path, LARGEST, REMEDY)
    first = next(lines, None)
    if first is None:
        raise UsageError(f"{path} is empty; {REMEDY}")
    header = parsed(first, f"{path}, line 1", VALUES, REMEDY)
    if not is_own(header):
        raise UsageError(
            f'{path}, line 1 is no header, which has "format": "{FORMAT}", nor a response of vLLM or SGLang; {REMEDY}'
        )
    # A sequence at a time: what is parsed of it takes several times the room of what is kept.
    values = (parsed(line, f"{path}, line {at}", VALUES, REMEDY) for at, line in enumerate(lines, start=2))
    return dump_of(path, header, [sequence_of(f"{path}, sequence {at}", value) for at, value in enumerate(values)])


def dump_of(path: Path, header: Mapping[str, Any], sequences: list[Said], resolution: float = 0.0) -> Dump:
    """The dump of a header and its sequences. Raises UsageError."""
    source = f"{path}: the header"
    unknown = next((name for name in header if name not in _HEADER), None)
    if unknown is not None:
        raise UsageError(f"{source} has {quoted(unknown)}; it may have {', '.join(_HEADER)}")
    if header.get("version") != VERSION or isinstance(header["version"], bool):
        raise UsageError(f"{source} has version {shown(header.get('version'))}; this Plumbline reads version {VERSION}")
    temperature = _number(source, header, "temperature")
    precision = _text(source, header, "precision")
    mode = _text(source, header, "mode") or None
    cut = {name: _number(source, header, name) for name in ("top_p", "min_p")}
    top_k = header.get("top_k")
    if top_k is not None and type(top_k) is not int:
        raise UsageError(f"{source}: top_k {quoted(top_k)} is no whole number")
    check_header(source, mode, temperature, precision, cut["top_p"], top_k, cut["min_p"])
    trainer = _text(source, header, "trainer_precision") or precision
    check_header(source, mode, temperature, trainer)
    if not sequences:
        raise UsageError(f"{path} has no sequence; {REMEDY}")
    return Dump(
        path=path,
        sequences=tuple(sequences),
        mode=str(mode),
        temperature=1.0 if temperature is None else temperature,
        precision=precision,
        trainer_precision=trainer,
        engine=_text(source, header, "engine"),
        weights=_text(source, header, "weights"),
        resolution=resolution,
    )


def _number(source: str, header: Mapping[str, Any], name: str) -> float | None:
    value = header.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{source}: {name} {quoted(value)} is no number")
    return float(value)


def _text(source: str, header: Mapping[str, Any], name: str) -> str:
    value = header.get(name, "")
    if not isinstance(value, str):
        raise UsageError(f"{source}: {name} {shown(value)} is no text; put it in quotes")
    return value


def sequence_of(source: str, value: object) -> Said:
    """One sequence of a value of JSON. Raises UsageError."""
    if not isinstance(value, dict):
        raise UsageError(f"{source} is no JSON object; {REMEDY}")
    unknown = next((name for name in value if name not in _SEQUENCE), None)
    if unknown is not None:
        raise UsageError(f"{source} has {quoted(unknown)}; it may have {', '.join(_SEQUENCE)}")
    tokens, logprobs = value.get("tokens"), value.get("logprobs")
    if not isinstance(tokens, list) or any(type(token) is not int for token in tokens):
        raise UsageError(f"{source}: tokens is no list of whole numbers; give token ids, prompt and answer")
    if type(value.get("prompt")) is not int:
        raise UsageError(f"{source}: prompt {quoted(value.get('prompt'))} is no whole number; give how many tokens were given")
    found = _floats(source, "logprobs", logprobs, len(tokens))
    trainer = value.get("trainer_logprobs")
    counted = _mask(source, value.get("mask"), found)
    one = Said(
        tokens=tuple(tokens),
        prompt=value["prompt"],
        logprobs=found,
        counted=counted,
        trainer=None if trainer is None else _floats(source, "trainer_logprobs", trainer, len(tokens)),
        routed=routes_of(source, value.get("routed_experts"), len(tokens)),
        weights=_text(source, value, "weights"),
    )
    check_sequence(source, one)
    return one


def _floats(source: str, name: str, value: object, tokens: int) -> tuple[float | None, ...]:
    if not isinstance(value, list) or any(type(one) not in (int, float, type(None)) for one in value):
        raise UsageError(f"{source}: {name} is no list of numbers; give one for each token, and null for none")
    check_length(source, name, len(value), tokens)
    return tuple(None if one is None else float(one) for one in value)


def _mask(source: str, value: object, logprobs: tuple[float | None, ...]) -> tuple[bool, ...]:
    """As given: true and false, or 1 and 0; by default every token that has a log-probability."""
    if value is None:
        return tuple(one is not None and at > 0 for at, one in enumerate(logprobs))
    if not isinstance(value, list) or any(type(one) not in (bool, int) or one not in (0, 1) for one in value):
        raise UsageError(f"{source}: mask is no list of true and false; a position counts or it does not")
    check_length(source, "values of mask", len(value), len(logprobs))
    return tuple(map(bool, value))


def routes_of(source: str, value: object, tokens: int) -> Routes | None:
    """Experts by position, layer and place; None for none. The last position, whose output nobody reads, may be missing."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) not in (tokens, tokens - 1):
        found = len(value) if isinstance(value, list) else "no"
        raise UsageError(
            f"{source} has {many(tokens, 'token')} and {found} routed_experts; give one for each, or all but the last"
        )
    for at, row in enumerate(value):
        rows = isinstance(row, list) and all(isinstance(chosen, list) for chosen in row)
        if not rows or any(type(expert) is not int for chosen in row for expert in chosen):
            raise UsageError(f"{source}: routed_experts[{at}] is no list of experts for each layer; {REMEDY}")
    return tuple(tuple(map(tuple, row)) for row in value)


# safetensors


def _safetensors(path: Path) -> Dump:
    """Padded tensors: tokens, prompt, lengths and logprobs, mask, trainer_logprobs, routed_experts; the header is metadata."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{path}: no such file; {REMEDY}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no safetensors file ({shown(str(error))}); {REMEDY}") from None
    header = {name: _of_metadata(name, text) for name, text in metadata.items()}
    if not is_own(header):
        raise UsageError(f'{path}: its metadata has no "format": "{FORMAT}"; {REMEDY}')
    _check_tensors(path, tensors)
    sequences = [sequence_of(f"{path}, sequence {at}", _row(path, tensors, at)) for at in range(len(tensors["tokens"]))]
    kinds = [_kind(tensors[name]) for name in ("logprobs", "trainer_logprobs") if name in tensors]
    return dump_of(path, header, sequences, max(RESOLUTIONS[kind] for kind in kinds))


def _kind(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _of_metadata(name: str, text: str) -> Any:
    """Metadata are texts: numbers are written as JSON has them."""
    if name not in ("version", "temperature", "top_p", "top_k", "min_p"):
        return text
    try:
        return parsed(text.encode(), name, VALUES, REMEDY)
    except UsageError:
        return text


def _check_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raises UsageError unless names, shapes and types are those of the format."""
    shapes = {"tokens": 2, "logprobs": 2, "prompt": 1, "lengths": 1, "mask": 2, "trainer_logprobs": 2, "routed_experts": 4}
    missing = next((name for name in ("tokens", "logprobs", "prompt", "lengths") if name not in tensors), None)
    unknown = next((name for name in tensors if name not in shapes), None)
    if missing or unknown:
        raise UsageError(f"{path}: {f'no tensor {missing}' if missing else f'tensor {quoted(unknown)} is unknown'}; {REMEDY}")
    size = tuple(tensors["tokens"].shape)
    if len(size) != 2:
        raise UsageError(f"{path}: tokens has the shape {size}; give [sequences, length], with padding")
    for name, tensor in tensors.items():
        wanted, kind = size[: min(2, shapes[name])], _kind(tensor)
        fits = name == "routed_experts" and tuple(tensor.shape[:2]) in (size, (size[0], size[1] - 1))
        if tensor.dim() != shapes[name] or not (fits or tuple(tensor.shape[: len(wanted)]) == wanted):
            raise UsageError(f"{path}: {name} has the shape {tuple(tensor.shape)}, and tokens has {size}; {REMEDY}")
        if name.endswith("logprobs"):
            right, said = kind in RESOLUTIONS, "floating-point numbers"
        elif name == "mask":
            right, said = kind in ("bool", "uint8", "int8", "int32", "int64"), "bool, or whole numbers that are 0 and 1"
        else:
            right, said = kind in ("uint8", "int8", "int16", "int32", "int64"), "whole numbers"
        if not right:
            raise UsageError(f"{path}: {name} is {kind}; give {said}")


def _row(path: Path, tensors: Mapping[str, Any], at: int) -> dict[str, Any]:
    """One sequence as a line of JSON has it, without its padding."""
    length, width = int(tensors["lengths"][at]), int(tensors["tokens"].shape[1])
    if not 0 <= length <= width:
        raise UsageError(f"{path}, sequence {at}: its length is {length} of {many(width, 'token')}; {REMEDY}")
    found: dict[str, Any] = {"tokens": tensors["tokens"][at, :length].tolist(), "prompt": int(tensors["prompt"][at])}
    for name in ("logprobs", "trainer_logprobs"):
        if name in tensors:
            found[name] = _values(tensors, name, at, length)
    if "mask" in tensors:
        padding = tensors["mask"][at, length:]
        if bool((padding != 0).any()):
            first = length + int((padding != 0).nonzero()[0, 0])
            raise UsageError(
                f"{path}, sequence {at}: its mask counts padding ({many(int((padding != 0).sum()), 'position')}, the "
                f"first is {first}, "
                f"and the sequence has {many(length, 'token')}); mask it out"
            )
        found["mask"] = tensors["mask"][at, :length].tolist()
    if "routed_experts" in tensors:
        found["routed_experts"] = tensors["routed_experts"][at, :length].tolist()
    return found


def _values(tensors: Mapping[str, Any], name: str, at: int, length: int) -> list[float | None]:
    """One row without its padding. NaN says that there is none, unless the mask counts it."""
    row: list[float] = tensors[name][at, :length].double().tolist()
    return [None if math.isnan(one) and not _counts(tensors, at, place) else one for place, one in enumerate(row)]


def _counts(tensors: Mapping[str, Any], at: int, place: int) -> bool:
    return "mask" in tensors and bool(tensors["mask"][at, place])
