"""Where a parameter lies in a torch_dist checkpoint, however megatron-core has spelt it.

megatron-core stacks a layer's experts into one tensor and gives each layer tensors of its own. Models whose layers are all of
one kind may have all layers in one tensor instead, and `singleton_local_shards` gives each expert, and gate and up, tensors of
their own. Wrapped models put a prefix before every key. Norms lie in the linear layers behind them (Transformer Engine) or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from validation.candidate.checkpoint.keys import Place, places, unwrapped
from validation.candidate.checkpoint.tensors import Megatron, of_te
from validation.case.model import Model
from validation.case.parameters import EXPERTS, Parameter
from validation.compare.piece import Box

_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")
_HALVES = ("_w", "_v")
"""What `singleton_local_shards` calls gate and up."""


@dataclass(frozen=True)
class Spelt:
    """A parameter, or one expert of it, in the tensor `key`: from row `first` on.

    `shape` is that of the tensor without its first dimensions, of which `before` has the indices.
    """

    key: str
    shape: tuple[int, ...]
    first: int
    before: tuple[int, ...] = ()
    expert: int | None = None

    def box(self, box: Box) -> Box:
        """A part of the parameter, in the indices of the tensor."""
        inner = box if self.expert is None else box[1:]
        moved = Place(self.key, self.shape, self.first).box(inner)
        return (*((index, index + 1) for index in self.before), *moved)

    def back(self, box: Box) -> Box:
        """A part of the tensor that holds one expert, in the indices of the parameter. Raises ValueError for other tensors."""
        if self.expert is None:
            raise ValueError(f"{self.key} does not hold one expert alone")
        (start, stop), *rest = box
        return ((self.expert, self.expert + 1), (start - self.first, stop - self.first), *rest)


def spelt(model: Model, known: Mapping[str, Parameter], keys: Mapping[str, str]) -> dict[str, tuple[Spelt, ...]]:
    """Where each parameter lies: in one tensor, or in one for each expert.

    `keys` are the checkpoint's, by what is left of them without prefixes. If no spelling is there, it is the one that
    megatron-core's default has, of the implementation that the other keys are of.
    """
    te = of_te(keys)
    named = [places(Megatron(model, known, name)) for name in (("te", "local") if te else ("local", "te"))]
    found: dict[str, tuple[Spelt, ...]] = {}
    for name, parameter in known.items():
        wanted = [place[name] for place in named if name in place]
        ways = (way for place in wanted for way in _ways(place, parameter))
        there = next((way for way in ways if all(part.key in keys for part in way)), None)
        found[name] = there or (Spelt(wanted[0].key, wanted[0].shape, wanted[0].first),)
    return {name: tuple(_as_stored(part, keys) for part in parts) for name, parts in found.items()}


def _as_stored(part: Spelt, keys: Mapping[str, str]) -> Spelt:
    return Spelt(keys.get(part.key, part.key), part.shape, part.first, part.before, part.expert)


def _ways(place: Place, parameter: Parameter) -> Iterator[tuple[Spelt, ...]]:
    """The spellings that megatron-core has for a place."""
    yield (Spelt(place.key, place.shape, place.first),)
    stacked = _LAYER.match(place.key)
    if stacked is not None:
        key = f"decoder.layers.{place.key[stacked.end() :]}"
        yield (Spelt(key, place.shape, place.first, before=(int(stacked[1]),)),)
    experts = range(parameter.shape[0]) if EXPERTS in parameter.name else (None,)
    shape = place.shape if EXPERTS not in parameter.name else place.shape[1:]
    names = [place.key if expert is None else _of_expert(place.key, expert) for expert in experts]
    yield tuple(Spelt(name, shape, place.first, (), expert) for name, expert in zip(names, experts, strict=True))
    half = _HALVES[place.first > 0]
    own = parameter.shape[len(parameter.shape) - len(shape) :]
    yield tuple(Spelt(name + half, own, 0, (), expert) for name, expert in zip(names, experts, strict=True))


def _of_expert(key: str, expert: int) -> str:
    return key.replace(".experts.experts.", f".experts.experts.{expert}.")


def without_prefixes(keys: Mapping[str, object]) -> dict[str, str]:
    """A checkpoint's keys by what is left of them without the prefixes of wrapped models."""
    return {unwrapped(key): key for key in keys}
