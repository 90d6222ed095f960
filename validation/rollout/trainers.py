"""Reading what slime and verl leave: `.pt` files and tensors of a batch.

slime: `--save-debug-rollout-data` (samples, slime/utils/types.py) and `--save-debug-train-data` (a rank's `rollout_data`, with
the trainer's log-probabilities). verl: the tensors of `DataProto.batch`, saved with torch or safetensors. The reader of a
`.pt` makes tensors, arrays and plain values alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from validation.candidate.checkpoint import archive
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import shown
from validation.rollout.dump import RESOLUTIONS, Dump, Routes, Said
from validation.rollout.made_with import MadeWith
from validation.rollout.responses import nested, version_of

_REMEDY = "docs/logprobs.md#what-trainers-leave says which files can be read"
_KINDS = ("u1", "u2", "i2", "i4", "i8", "f4", "f8")
_ARRAYS: tuple[Any, ...] = (numpy.ndarray, numpy.dtype, *(type(numpy.dtype(kind)) for kind in _KINDS))
_LARGEST = 1e300
"""Of a log-probability. Python's whole numbers have no end."""
_SAID = ("rollout_log_probs", "old_log_probs")
_VERL = ("input_ids", "attention_mask", "responses", "rollout_log_probs")


def read(path: Path, made: MadeWith) -> Dump:
    """The dump of a `.pt`. Raises UsageError."""
    try:
        reconstruct = numpy._core.multiarray._reconstruct  # type: ignore[attr-defined]
        with torch.serialization.safe_globals([*_ARRAYS, reconstruct]):
            found = archive.loaded(path, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        said = shown(str(error).strip().split("\n")[0])
        if isinstance(error, pickle.UnpicklingError) and said.startswith("Weights only"):
            said = "it asks for Python objects, and nothing of a file is run"
        raise UsageError(f"{path} is no .pt of tensors and plain values ({said}); {_REMEDY}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} has a {type(found).__name__}; {_REMEDY}")
    if isinstance(found.get("samples"), list):
        return made.dump(path, "slime", [_sample(f"{path}, sample {at}", one) for at, one in enumerate(found["samples"])])
    if isinstance(found.get("rollout_data"), dict):
        return made.dump(path, "slime", _rollout(path, found["rollout_data"]))
    return of_tensors(path, found, made)


def of_tensors(path: Path, found: Mapping[str, Any], made: MadeWith) -> Dump:
    """The dump of a batch of verl's. Raises UsageError."""
    missing = [name for name in _VERL if not isinstance(found.get(name), torch.Tensor)]
    if missing:
        raise UsageError(f"{path} has neither samples nor rollout_data nor the tensor {missing[0]}; {_REMEDY}")
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    _check_batch(path, tensors)
    resolution = max(2.0**-24, *(_resolution(path, tensors, name) for name in _SAID))
    sequences = [_row(path, tensors, at) for at in range(len(found["input_ids"]))]
    return made.dump(path, "verl", sequences, resolution)


# slime


def _sample(source: str, one: object) -> Said:
    if not isinstance(one, dict):
        raise UsageError(f"{source} is no sample; {_REMEDY}")
    versions = one.get("weight_versions") or []
    if not isinstance(versions, list):
        raise UsageError(f"{source}: weight_versions is no list; {_REMEDY}")
    return _answered(
        source,
        _listed(one.get("tokens")),
        _whole(source, one.get("response_length")),
        _listed(one.get("rollout_log_probs")),
        mask=_listed(one["loss_mask"]) if one.get("loss_mask") is not None else None,
        routed=_routes(source, one.get("rollout_routed_experts")),
        weights=version_of(source, versions),
    )


def _rollout(path: Path, data: Mapping[str, Any]) -> list[Said]:
    """The samples of one rank's training data, which are lists, one entry for each sample."""
    needed, more = ("tokens", "response_lengths", "rollout_log_probs"), ("log_probs", "loss_masks", "rollout_routed_experts")
    lists = {name: data.get(name) for name in (*needed, *(name for name in more if data.get(name) is not None))}
    count = len(data["tokens"]) if isinstance(data.get("tokens"), (list, tuple)) else 0
    wrong = next((name for name, one in lists.items() if not isinstance(one, (list, tuple)) or len(one) != count), None)
    if wrong:
        raise UsageError(f"{path}: rollout_data has no {wrong} for each of {many(count, 'sample')}; {_REMEDY}")
    trainer, masks, routed = (data.get(name) for name in more)
    return [
        _answered(
            f"{path}, sample {at}",
            _listed(tokens),
            _whole(f"{path}, sample {at}", data["response_lengths"][at]),
            _listed(data["rollout_log_probs"][at]),
            None if trainer is None else _listed(trainer[at]),
            None if masks is None else _listed(masks[at]),
            None if routed is None else _routes(f"{path}, sample {at}", routed[at]),
        )
        for at, tokens in enumerate(data["tokens"])
    ]


def _answered(
    source: str,
    tokens: list[Any],
    length: int,
    logprobs: list[Any],
    trainer: list[Any] | None = None,
    mask: list[Any] | None = None,
    routed: Routes | None = None,
    weights: str = "",
) -> Said:
    """A sequence of which all is said of its last `length` tokens alone, the answer."""
    for name, values in (("log-probabilities", logprobs), ("log_probs of the trainer", trainer), ("values of its mask", mask)):
        if values is not None and len(values) != length:
            raise UsageError(
                f"{source} has {many(length, 'token')} in its answer and {len(values)} {name}; give whole "
                f"answers (under context "
                "parallelism each rank has a part)"
            )
    prompt = len(tokens) - length
    if any(type(token) is not int for token in tokens) or prompt < 1 or length < 0:
        raise UsageError(f"{source} has {many(len(tokens), 'token')} and an answer of {length}; {_REMEDY}")
    if any(one not in (0, 1) for one in mask or ()):
        raise UsageError(f"{source}: its mask has other values than 0 and 1; a token counts or it does not")
    counted = [bool(one) for one in mask] if mask is not None else [True] * length
    nothing: list[float | None] = [None] * prompt
    return Said(
        tuple(tokens),
        prompt,
        (*nothing, *_floats(source, logprobs)),
        (*(False,) * prompt, *counted),
        None if trainer is None else (*nothing, *_floats(source, trainer)),
        routed,
        weights,
    )


def _whole(source: str, value: object) -> int:
    found = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    if type(found) is not int:
        raise UsageError(f"{source}: the length of its answer is {shown(found)}; {_REMEDY}")
    return found


def _floats(source: str, values: list[Any]) -> list[float]:
    wrong = next((one for one in values if type(one) not in (int, float) or abs(one) > _LARGEST), None)
    if wrong is not None or None in values:
        raise UsageError(f"{source}: a log-probability is {shown(wrong)}; {_REMEDY}")
    return list(map(float, values))


def _listed(value: object) -> list[Any]:
    """A list, a tensor or an array as a list; empty for none."""
    if isinstance(value, (torch.Tensor, numpy.ndarray)):
        found: list[Any] = value.tolist() if value.ndim == 1 else []
        return found
    return list(value) if isinstance(value, (list, tuple)) else []


def _routes(source: str, value: object) -> Routes | None:
    if value is None:
        return None
    array: Any = value
    if not isinstance(value, (torch.Tensor, numpy.ndarray)):
        try:
            array = numpy.array(value)
        except (ValueError, OverflowError):
            array = numpy.array(0)
    if array.ndim != 3 or (isinstance(array, numpy.ndarray) and array.dtype.kind not in "iu"):
        raise UsageError(f"{source}: its routed experts are no [positions, layers, k]; {_REMEDY}")
    return nested(array)


# verl


def _check_batch(path: Path, batch: Mapping[str, torch.Tensor]) -> None:
    """Raises UsageError unless the tensors fit each other."""
    whole, answer = batch["input_ids"].shape, batch["responses"].shape
    wanted = {"input_ids": whole, "attention_mask": whole, "responses": answer, "rollout_log_probs": answer}
    wanted |= {name: answer for name in ("old_log_probs", "response_mask") if name in batch}
    if (routed := batch.get("routed_experts")) is not None:
        wanted["routed_experts"] = torch.Size((*whole, *routed.shape[2:4])) if routed.dim() == 4 else whole
    if (mask := batch.get("loss_mask")) is not None:
        wanted["loss_mask"] = answer if mask.shape == answer else whole
    fits = len(whole) == len(answer) == 2 and whole[0] == answer[0] and 0 < answer[1] < whole[1]
    wrong = next((name for name, shape in wanted.items() if batch[name].shape != shape), "")
    if not fits or wrong:
        name = wrong or "responses"
        said = f"has the shape {tuple(batch[name].shape)}, and input_ids has {tuple(whole)}"
        raise UsageError(f"{path}: {name} {said}; {_REMEDY}")


def _resolution(path: Path, batch: Mapping[str, torch.Tensor], name: str) -> float:
    """The rounding of a tensor of log-probabilities; 0 if the batch has none of this name. Raises UsageError."""
    kind = str(batch[name].dtype).removeprefix("torch.") if name in batch else "float64"
    if kind not in RESOLUTIONS:
        raise UsageError(f"{path}: {name} is {kind}; give floating-point numbers")
    return RESOLUTIONS[kind]


def _row(path: Path, batch: Mapping[str, torch.Tensor], at: int) -> Said:
    """One sequence of a batch: the prompt is padded on the left, the answer on the right."""
    source, width = f"{path}, sequence {at}", batch["responses"].shape[1]
    ids, real = batch["input_ids"][at], batch["attention_mask"][at].bool()
    answer = real[-width:]
    length = int(answer.sum())
    if not torch.equal(ids[-width:][answer], batch["responses"][at][answer]):
        raise UsageError(f"{source}: its responses are not the tokens at the end of its input_ids; give one batch's tensors")
    if not bool(answer[:length].all()):
        raise UsageError(f"{source}: its answer has padding between its tokens; give unpacked answers")
    mask = batch.get("response_mask", batch.get("loss_mask"))
    counted = None if mask is None else mask[at, -width:].tolist()
    if counted is not None and any(counted[length:]):
        raise UsageError(
            f"{source}: its mask counts padding ({many(sum(map(bool, counted[length:])), 'position')} behind the "
            f"{many(length, 'token')} of "
            "the answer); mask it out"
        )
    old = batch.get("old_log_probs")
    routed = batch.get("routed_experts")
    return _answered(
        source,
        ids[real].tolist(),
        length,
        batch["rollout_log_probs"][at, :length].double().tolist(),
        None if old is None else old[at, :length].double().tolist(),
        None if counted is None else counted[:length],
        None if routed is None else _routes(source, routed[at][real]),
    )


def names_of(found: Sequence[str]) -> bool:
    """Whether tensors of these names are a batch of verl's."""
    return set(_VERL) <= set(found)
