"""CUDA graphs: which parts of layers are recorded, and which of that can be compared.

Transformer Engine records behind the first steps what later steps replay, as upstream's training script has it:
https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/cuda_graphs.py (TECudaGraphHelper).
"""

from __future__ import annotations

from collections.abc import Mapping

from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.data import ARE_PACKED
from validation.case.model import Model

NONE, LOCAL, TE = "none", "local", "transformer_engine"
_THROUGH_HOST = "staged"
"""The transport whose exchanges no graph can hold."""
_ITERATION = "full_iteration"
_PARTS = ("cuda_graph_modules", "cuda_graph_scope")
"""The field that names parts of layers, in 0.18 and later, and before."""
_WITHOUT_ROUTERS = frozenset(("attn", "mlp"))
KIND = "model.cuda_graph_impl"
"""The field that says who records; two old fields say it, too (`by`)."""
_FIELDS = ("model.cuda_graph_", "model.enable_cuda_graph", "model.external_cuda_graph")
_STEPS = 2
"""The first step is computed without graphs, and the second replays them."""


def says(name: str) -> bool:
    """Whether the field with that full name is of CUDA graphs."""
    return name.startswith(_FIELDS)


def by(model: Mapping[str, Value]) -> str:
    """Who records, by cuda_graph_impl or the old names of its values; `model` are fields without their section."""
    old = {"external_cuda_graph": TE, "enable_cuda_graph": LOCAL}
    return next((new for name, new in old.items() if model.get(name) is True), str(model.get("cuda_graph_impl") or NONE))


def parts(model: Mapping[str, Value]) -> frozenset[str]:
    """The parts of a layer that are recorded; none for all of it."""
    given = [value.split(",") if isinstance(value, str) else value for value in map(model.get, _PARTS)]
    return frozenset(str(word).strip() for words in given if isinstance(words, (list, tuple)) for word in words) - {"full"}


def unfit(fields: Mapping[str, Value], model: Model) -> str | None:
    """Why the graphs of a model cannot be compared, by what they hold; None if they can, or if there are none.

    With `local` megatron-core 0.16.1 and 0.19.2 end in an error of CUDA's: the host waits for the experts' numbers of tokens.
    """
    recorded, who = parts(fields), by(fields)
    if _ITERATION in (who, *recorded):
        return (
            "a CUDA graph of a whole iteration is made by the training script, whose loop Plumbline has not; "
            "model.cuda_graph_impl=transformer_engine with model.cuda_graph_scope=attn works"
        )
    if who == LOCAL and model.moe_layers:
        return (
            "CUDA graphs of cuda_graph_impl=local are of whole layers, and Megatron-Core cannot record one with experts; "
            "transformer_engine with model.cuda_graph_scope=attn works"
        )
    if who != TE or not model.moe_layers or (recorded and recorded <= _WITHOUT_ROUTERS):
        return None
    what = ", ".join(sorted(recorded - _WITHOUT_ROUTERS)) or "whole layers"
    return (
        f"CUDA graphs of {what} have routers in them, and a router in a graph cannot go on with the reference's choices; "
        "model.cuda_graph_scope=attn works"
    )


def need(model: Mapping[str, Value]) -> str:
    """What the graphs that `model` asks for need, a word of validation.case.fields; empty if there are none."""
    return {NONE: "", TE: "te"}.get(by(model), "gpu")


def can_be_compared(case: Case) -> str | None:
    """Why the CUDA graphs that a case's settings ask for cannot be compared, None if they can, or if there are none."""
    return refusal(case.training.effective("model"), case)


def refusal(model: Mapping[str, Value], case: Case) -> str | None:
    """Why the CUDA graphs that `model` asks for cannot be compared in a case, None if they can, or if there are none."""
    if sentence := unfit(model, case.model):
        return sentence
    if by(model) != TE:
        return None
    if not case.uses_te:
        return f"CUDA graphs of {TE} are of its layers, and {case.implementation} has others; --implementation te has them"
    more = "" if case.training.steps >= _STEPS else f" with --steps {_STEPS}"
    if case.training.data_shape in ARE_PACKED:
        return f"Megatron-Core has no packed sequences in CUDA graphs; leave out +{case.training.data_shape}"
    if case.precision != "bf16":
        return f"Megatron-Core records CUDA graphs in bf16 alone, not in {case.precision}; --precision bf16{more} works"
    if case.transport == _THROUGH_HOST and (case.layout.tp > 1 or case.layout.cp > 1):
        return (
            f"CUDA graphs of attention in {case.layout.name} have exchanges of ranks in them, and over {_THROUGH_HOST} the "
            f"host exchanges; --transport nccl{more} works, with a GPU for each rank, or a layout without tp and cp"
        )
    if case.training.steps < _STEPS:
        works = f"leave out --isolated and take --steps {_STEPS}" if case.isolated else f"--steps {_STEPS} works"
        return f"CUDA graphs are recorded behind the first step, and no step of this case replays them; {works}"
    return None
