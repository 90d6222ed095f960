"""The planted defects: one table. What each does, what it needs, and the check that must fail first. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """One defect, put into the ranks by `plugin` (validation.run.plugin).

    `needs` is what a layout or a model must have for it to exist: `experts`, `tp` (ranks that share a sum), `sequence
    parallelism`, `dp`, `cp`. `check` names the comparison that must be the first to fail in data-flow order, with {moe} and
    {last} for the model's first layer of experts and its last layer, {output} for its last trained parameter.
    """

    group: str
    does: str
    needs: str
    check: str
    plugin: str


GROUPS = ("attention scale", "rope", "router bias", "expert order", "lost reduction", "lost gradient reduction")
"""One defect of each is planted, in this order."""

_PLUGINS = "validation.faults.planted"
DEFECTS: tuple[Defect, ...] = (
    Defect(
        group="attention scale",
        does="the softmax is scaled by mscale squared times 1.56",
        needs="",
        check="layers.0.attention.core",
        plugin=f"{_PLUGINS}:AttentionScale",
    ),
    Defect(
        group="rope",
        does="halves are rotated in place of interleaved pairs",
        needs="",
        check="layers.0.attention.query",
        plugin=f"{_PLUGINS}:RotatedHalves",
    ),
    Defect(
        group="router bias",
        does="the expert with the smallest bias is given the largest",
        needs="experts",
        check="layers.{moe}.moe.router.experts",
        plugin=f"{_PLUGINS}:RouterBias",
    ),
    Defect(
        group="expert order",
        does="each expert computes with the weights of the next",
        needs="experts",
        check="layers.{moe}.moe.routed",
        plugin=f"{_PLUGINS}:ExpertOrder",
    ),
    Defect(
        group="lost reduction",
        does="layer 0's attention output is not summed over the tensor-parallel ranks",
        needs="tp",
        check="layers.0.attention.output",
        plugin=f"{_PLUGINS}:LostReduction",
    ),
    Defect(
        group="lost gradient reduction",
        does="the gradient of the last layer's input norm is not summed over the tensor-parallel ranks",
        needs="sequence parallelism",
        check="gradients/model.layers.{last}.input_layernorm.weight",
        plugin=f"{_PLUGINS}:UnmarkedNorm",
    ),
    Defect(
        group="lost gradient reduction",
        does="gradients are not summed over the data-parallel ranks",
        needs="dp",
        check="gradients/{output}",
        plugin=f"{_PLUGINS}:ForgottenBuckets",
    ),
    Defect(
        group="lost gradient reduction",
        does="gradients are not summed over the context-parallel ranks",
        needs="cp",
        check="gradients/{output}",
        plugin=f"{_PLUGINS}:ForgottenBuckets",
    ),
)
"""Where a group has several, the first that exists in the layouts of a run is planted."""
