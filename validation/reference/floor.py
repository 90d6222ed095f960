"""The floor: what rounding alone does to each tensor, measured on the HuggingFace model in the case's precision.

Several runs that a user would call the same (attention and expert implementations, inputs moved by one rounding unit), each
against the same model in fp64. The largest error of them is the floor of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from validation.case.case import Case
from validation.case.probes import observed
from validation.compare.difference import Difference, measure, measured_later
from validation.compare.piece import whole
from validation.compare.precision import as_stored
from validation.reference.record import Recording

_MEAN_OF = {"loss": "token_loss", "mtp.loss": "mtp.token_loss", "moe.balancing": "moe.router.scores"}
"""One number made of many, whose errors may cancel by chance: its floor is at least that of what it is made of.

The relative error of a mean of positive numbers is at most about the relative Frobenius error of the numbers
(Cauchy-Schwarz); a floor that happened to be a hundred times smaller would raise false alarms.
"""


@dataclass(frozen=True)
class Variant:
    """One way to compute the same; `moved` seeds how the embedding's output is moved by one rounding unit, 0 is not."""

    attention: str = "sdpa"
    experts: str = "eager"
    moved: int = 0

    @property
    def name(self) -> str:
        """As reports write it."""
        return f"{self.attention} attention, {self.experts} experts" + (f", inputs moved ({self.moved})" if self.moved else "")

    def move(self, tensor: torch.Tensor) -> torch.Tensor:
        """Each element moved to the next number of its dtype, up or down by chance; the tensor itself where none is."""
        if not self.moved:
            return tensor
        generator = torch.Generator().manual_seed(self.moved)
        with torch.no_grad():
            bits = tensor.detach().view(_BITS[tensor.dtype])
            signs = (torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1).to(bits)
            # Of a floating-point number's bits, taken as an integer, the next integer is the next number.
            step = torch.where(tensor == 0, tensor, (bits + signs).view(tensor.dtype)) - tensor
        return tensor + step


_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}

VARIANTS = (
    Variant(),
    Variant(attention="eager"),
    Variant(experts="grouped_mm"),
    Variant(moved=1),
    Variant(moved=2),
)


_KEPT = ("_errors", "_largest", "_magnitudes", "_dtypes")


class Floor:
    """The largest error of every tensor so far, by the names that ranks report them under."""

    def __init__(self, truth: Mapping[str, torch.Tensor]) -> None:
        self.truth = truth
        self._errors: dict[str, float] = {}
        self._largest: dict[str, float] = {}
        self._magnitudes: dict[str, float] = {}
        self._dtypes: dict[str, str] = {}
        self._turned: dict[str, float] = {}

    def add(self, found: Iterable[tuple[str, torch.Tensor]], scale: float = 1.0) -> None:
        """Take in one run's tensors, each `scale` times too large."""
        for name, tensor in found:
            self._dtypes.setdefault(name, str(tensor.dtype).removeprefix("torch."))
            if tensor.is_floating_point():
                truth = self.truth[name]
                largest = self._magnitudes[name] if name in self._magnitudes else magnitude(truth)
                self.add_difference(name, tensor.dtype, difference_from(truth, tensor, scale), largest)

    def add_difference(self, name: str, dtype: torch.dtype, found: Difference, largest: float) -> None:
        """Take in one run's tensor of `dtype` by what it is off from a truth whose largest magnitude is `largest`."""
        self._dtypes.setdefault(name, str(dtype).removeprefix("torch."))
        self._magnitudes[name] = largest
        # Holding a number in this dtype rounds it by as much, even where these runs were lucky.
        unit, error = torch.finfo(dtype).eps / 2, found.relative_error
        known = self._errors.get(name, unit)
        # A run that overflowed is no measure of rounding; an infinite floor would excuse everything.
        self._errors[name] = max(known, error) if math.isfinite(error) else known
        self._largest[name] = max(self._largest.get(name, 0.0), found.max_abs)

    @property
    def errors(self) -> Mapping[str, float]:
        """The largest so far by name, as it grows."""
        return self._errors

    def dtypes(self, case: Case) -> dict[str, str]:
        """What the Megatron side must hold each tensor in, by name."""
        # The gradients of parameters are added up in float32 there, but for a case that says otherwise.
        added = self._dtypes if case.rounds_sums else {}
        return {
            name: added.get(name, "float32") if name.startswith("gradients/") else dtype for name, dtype in self._dtypes.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """All of it but the truth, for JSON."""
        return {name: getattr(self, name) for name in _KEPT}

    def absorb(self, other: Mapping[str, Any]) -> None:
        """Take in what `as_dict` of a floor of other tensors has said."""
        for name in _KEPT:
            getattr(self, name).update(other[name])

    def error(self, name: str) -> float:
        """The largest so far."""
        return self._errors[name]

    def raise_to(self, name: str, error: float) -> None:
        """Rounding may do as much to a tensor, whatever these runs have shown."""
        self._errors[name] = max(self._errors[name], error)

    def turn(self, name: str, largest: float) -> None:
        """A single element of a tensor may be off by `largest`, and by what these runs have shown."""
        self._turned[name] = max(self._largest[name], largest)

    def facts(self, case: Case) -> dict[str, Any]:
        """For the reference's file.

        `floor` by name, `magnitude`, the truth's largest, by name, `turned`, what an element may be off by, where that is more
        than rounding, `dtypes` by name, and `score_floor`, the largest |error| of the scores of a router or an indexer, by its
        choice.
        """
        scores = {
            f"layers.{layer}.moe.router.experts": self._largest[f"layers.{layer}.moe.router.scores"]
            for layer in case.model.expert_blocks
        }
        of_keys = [f"layers.{layer}.indexer" for layer in range(case.model.num_hidden_layers if case.model.sparse else 0)]
        scores |= {f"{prefix}.keys": self._largest[f"{prefix}.scores"] for prefix in of_keys}
        dtypes = self.dtypes(case)
        by_name = {"floor": self._floors(case), "magnitude": self._magnitudes, "turned": self._turned, "dtypes": dtypes}
        return {**by_name, "score_floor": scores}

    def _floors(self, case: Case) -> dict[str, float]:
        probes, floor = observed(case), dict(self._errors)
        for name in floor:
            many = _MEAN_OF.get(probes[name].kind) if name in probes else None
            if many is not None:
                floor[name] = max(floor[name], floor[name.removesuffix(probes[name].kind) + many])
        return floor


@torch.no_grad()
def difference_from(truth: torch.Tensor, tensor: torch.Tensor, scale: float = 1.0) -> Difference:
    """What a tensor, `scale` times too large, is off from the truth."""
    with as_stored():
        return measure(_unscaled(tensor, scale), truth, whole(truth.shape))


def _unscaled(tensor: torch.Tensor, scale: float) -> torch.Tensor:
    """In a format in which dividing by a power of two rounds nothing: float32 and bfloat16 reach far enough."""
    if scale == 1.0:
        return tensor
    exact = tensor.dtype == torch.bfloat16 and scale == 2.0 ** round(math.log2(scale))
    return (tensor if exact else tensor.to(torch.promote_types(tensor.dtype, torch.float32))) / scale


@torch.no_grad()
def difference_later(truth: torch.Tensor, tensor: torch.Tensor, scale: float) -> Callable[[], Difference]:
    """The same, which a GPU may still be taking."""
    with as_stored():
        return measured_later(_unscaled(tensor, scale), truth, whole(truth.shape))


@torch.no_grad()
def magnitude(truth: torch.Tensor) -> float:
    """Of the element that is largest; 0 where there is none."""
    with as_stored():
        return float(truth.abs().max()) if truth.numel() else 0.0


def gradients_of(recording: Recording, gradients: Mapping[str, torch.Tensor]) -> Iterable[tuple[str, torch.Tensor]]:
    """The gradients of probes and of parameters, by their names in reports."""
    yield from ((f"probe_gradients/{name}", tensor) for name, tensor in recording.gradients.items())
    yield from ((f"gradients/{name}", tensor) for name, tensor in gradients.items())
