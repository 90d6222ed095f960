"""What is wrong with the tensors of a folder: what `convert`, and `run`, refuse by their headers alone. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from validation.case.key_names import GATE_AND_UP, PACKED, VISION, fused_experts, hint
from validation.case.model import Model
from validation.case.parameters import EXPERTS, parameters
from validation.case.plural import many
from validation.case.quantisation import FP8, SCALE_DTYPES, block_size
from validation.case.strangers import listed, shown
from validation.inspection.quantised import SCALE, WEIGHTS
from validation.inspection.stored import Stored

_ASIDE = ("rotary_emb.inv_freq", SCALE, "_scale", "_shape", "_zero_point", "_g_idx", PACKED)
_MOST_MTP = 8


def wrong(model: Model, stored: Stored, quantisation: Any) -> Iterator[str]:
    """A sentence for each. `quantisation` is the part of config.json."""
    keys, wanted = stored.keys, _expected(model)
    yield from _missing(keys, wanted)
    yield from _shapes(keys, wanted, stored)
    yield from _unlike(keys, model, stored)
    yield from _scales(keys, stored, quantisation)
    yield from _unused(keys, model, wanted)


_Shapes = Mapping[str, tuple[int, ...]]


def _expected(model: Model) -> dict[str, tuple[int, ...]]:
    """Every key of the model's checkpoint with its shape."""
    return {
        key: parameter.shape[1:] if EXPERTS in parameter.name else parameter.shape
        for parameter in parameters(model).values()
        for key in parameter.keys()  # noqa: SIM118 - it is no mapping
    }


def _given(key: str, keys: Mapping[str, str]) -> bool:
    """Whether a tensor is there, packed or fused with others."""
    if key in keys or f"{key}{PACKED}" in keys:
        return True
    layer, experts, rest = key.partition(f".{EXPERTS}")
    if not experts:
        return False
    matrix = rest.split(".")[1]
    names = [matrix] if matrix == "down_proj" else [matrix, GATE_AND_UP]
    return any(f"{layer}.{EXPERTS}{name}{end}" in keys for name in names for end in ("", ".weight"))


def _missing(keys: Mapping[str, str], wanted: _Shapes) -> Iterator[str]:
    """The model's keys that are in no file, in any spelling."""
    absent = [key for key in wanted if not _given(key, keys)]
    if absent and keys:
        why = hint(keys.values(), absent)
        yield (
            f"{many(len(absent), 'tensor')} of the model {'is' if len(absent) == 1 else 'are'} missing, the first is "
            f"{shown(absent[0])}" + (f": {why}" if why else "")
        )


def _shapes(keys: Mapping[str, str], wanted: _Shapes, stored: Stored) -> Iterator[str]:
    other = [key for key in wanted if key in keys and stored.tensors[keys[key]].shape != wanted[key]]
    if other:
        found = stored.tensors[keys[other[0]]].shape
        said = f"{shown(other[0])} is {found}, not {wanted[other[0]]}"
        yield f"{many(len(other), 'tensor has', 'tensors have')} another shape than config.json says: {said}"


def _unlike(keys: Mapping[str, str], model: Model, stored: Stored) -> Iterator[str]:
    """Experts of a layer that are not stored in one dtype."""
    for parameter in parameters(model).values():
        if EXPERTS not in parameter.name:
            continue
        there = [(key, name) for key in parameter.keys() for name in (key, f"{key}{PACKED}") if name in keys]  # noqa: SIM118
        kinds = {stored.tensors[keys[name]].dtype: key for key, name in reversed(there)}
        if len(kinds) > 1:
            (one, first), (two, second) = list(kinds.items())[:2]
            yield f"{shown(second)} is {two} and {shown(first)} {one}; store the experts of a layer alike"
            return


def _scales(keys: Mapping[str, str], stored: Stored, quantisation: Any) -> Iterator[str]:
    """Block scales that are missing, of another shape, or of weights that need none."""
    block = block_size(quantisation)
    found = {key: stored.tensors[name] for key, name in keys.items()}
    eight = [key for key, tensor in found.items() if tensor.dtype == FP8 and len(tensor.shape) == 2]
    without = [key for key in eight if f"{key}{SCALE}" not in found]
    if without and len(without) < len(eight):
        yield (
            f"{many(len(without), 'weight')} in fp8 {'has' if len(without) == 1 else 'have'} no scales, the first is "
            f"{shown(without[0])}"
        )
    sizes = {key: tuple(math.ceil(n / side) for n, side in zip(found[key].shape, block, strict=True)) for key in eight if block}
    other = [key for key in sizes if key not in without and found[f"{key}{SCALE}"].shape != sizes[key]]
    if other:
        first = other[0]
        said = f"{shown(first)}{SCALE} is {found[f'{first}{SCALE}'].shape}, not {sizes[first]}"
        yield f"the scales of {many(len(other), 'weight')} do not fit blocks of {' x '.join(map(str, block or ()))}: {said}"
    kinds = {tensor.dtype for key, tensor in found.items() if key.endswith(SCALE)}
    plain = [key for key in found if f"{key}{SCALE}" in found and found[key].dtype in WEIGHTS]
    if plain and kinds <= set(SCALE_DTYPES):
        are = "is" if len(plain) == 1 else "are"
        first = f"the first is {shown(plain[0])} in {found[plain[0]].dtype}"
        yield f"{many(len(plain), 'weight has', 'weights have')} scales and {are} not in fp8, {first}"


def _unused(keys: Mapping[str, str], model: Model, wanted: _Shapes) -> Iterator[str]:
    """Tensors that the model has no place for, but for those that are set aside."""
    layers = model.num_hidden_layers
    mtp = tuple(f"model.layers.{layer}." for layer in range(layers, layers + _MOST_MTP))
    left = [key for key in keys if key not in wanted and not key.endswith(_ASIDE) and not key.startswith((*VISION, *mtp))]
    left = [key for key in left if not fused_experts(key)]
    left = [key for key in left if not (key == "lm_head.weight" and model.tie_word_embeddings)]
    if left:
        yield f"{many(len(left), 'tensor has', 'tensors have')} no place in the model: {listed(left)}"
