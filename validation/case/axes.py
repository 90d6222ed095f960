"""What the indices of a compared tensor stand for: which rows belong to a head or an expert, which are rotary."""

from __future__ import annotations

from dataclasses import dataclass

from validation.case.case import Case
from validation.case.inference import inferred
from validation.case.model import Model
from validation.case.parameters import EXPERTS, parameters
from validation.case.probes import observed


@dataclass(frozen=True)
class Region:
    """Indices with a meaning of their own: those from `start` to `stop` of every `period`."""

    title: str
    start: int
    stop: int
    period: int

    def holds(self, index: int) -> bool:
        """Whether the index is one of the region's."""
        return self.start <= index % self.period < self.stop


@dataclass(frozen=True)
class Axis:
    """One dimension of a tensor.

    `members` is what it counts (`head`, `expert`, `position`, `sequence`), `each` how many indices one of them takes. Members
    in `order` come one after the other in time, so that a run of them means something.
    """

    size: int
    members: str = ""
    each: int = 1
    order: bool = False
    regions: tuple[Region, ...] = ()


def axes(case: Case, name: str) -> tuple[Axis, ...]:
    """The axes of a tensor by its name in the ranks' reports; none for what is not known, such as a scalar."""
    key = name.rpartition("/")[2]
    one = inferred(case).get(name)
    probe, parameter = one.probe if one else observed(case).get(key), parameters(case.model).get(key)
    if probe is not None:
        return tuple(_of_probe(case.model, probe.kind, axis, size) for axis, size in zip(probe.axes, probe.shape, strict=True))
    return _of_parameter(case.model, parameter.name, parameter.shape) if parameter else ()


def _of_probe(model: Model, kind: str, axis: str, size: int) -> Axis:
    if axis in ("batch", "sequence"):
        return Axis(size, "sequence" if axis == "batch" else "position", order=True)
    if axis in ("heads", "experts"):
        return Axis(size, axis.removesuffix("s"))
    if axis == "head_dim" and kind in ("attention.query", "attention.key"):
        return Axis(size, regions=_rotary(model, size))
    if axis == "latent" and kind == "attention.kv_latent":
        return Axis(size, regions=_latent(model, size))
    return Axis(size)


def _of_parameter(model: Model, name: str, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    rows, *rest = shape
    plain = tuple(map(Axis, rest))
    if EXPERTS in name or name.endswith(("mlp.gate.weight", "e_score_correction_bias")):
        return (Axis(rows, "expert"), *plain)
    if name.endswith(("q_b_proj.weight", "q_proj.weight")):
        return (Axis(rows, "head", model.query_head_dim, regions=_rotary(model, model.query_head_dim)), *plain)
    if name.endswith("kv_a_proj_with_mqa.weight"):
        return (Axis(rows, regions=_latent(model, rows)), *plain)
    if name.endswith("kv_b_proj.weight"):
        return (Axis(rows, "head", model.qk_nope_head_dim + model.v_head_dim, regions=_key_and_value(model)), *plain)
    if name.endswith("o_proj.weight"):
        return Axis(rows), Axis(rest[0], "head", model.v_head_dim)
    if name.endswith("eh_proj.weight"):
        return Axis(rows), Axis(rest[0], regions=_halves(model.hidden_size))
    return (Axis(rows), *plain)


def _rotary(model: Model, period: int) -> tuple[Region, ...]:
    nope = model.qk_nope_head_dim
    return Region("rotary dimensions", nope, period, period), Region("dimensions without position", 0, nope, period)


def _latent(model: Model, size: int) -> tuple[Region, ...]:
    rank = model.kv_lora_rank
    return Region("rotary dimensions", rank, size, size), Region("latent dimensions", 0, rank, size)


def _key_and_value(model: Model) -> tuple[Region, ...]:
    nope, period = model.qk_nope_head_dim, model.qk_nope_head_dim + model.v_head_dim
    return Region("key dimensions", 0, nope, period), Region("value dimensions", nope, period, period)


def _halves(hidden: int) -> tuple[Region, ...]:
    both = 2 * hidden
    return Region("the embedding's half", 0, hidden, both), Region("the hidden state's half", hidden, both, both)
