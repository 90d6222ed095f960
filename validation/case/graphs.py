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
    given = next((value for name in _PARTS if (value := model.get(name))), None) or "full"
    words = given.split(",") if isinstance(given, str) else given if isinstance(given, tuple) else ()
    return frozenset(str(word).strip() for word in words) - {"full"}


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


def refusal(case: Case) -> str | None:
    """Why the CUDA graphs of a case cannot be compared, None if they can, or if there are none."""
    model = case.training.effective("model")
    if by(model) == NONE:
        return None
    if sentence := unfit(model, case.model):
        return sentence
    if by(model) == LOCAL:
        return None
    if case.training.steps < _STEPS:
        return f"CUDA graphs are recorded behind the first step, and no step of this case replays them; --steps {_STEPS} works"
    if case.precision != "bf16":
        return f"Megatron-Core records CUDA graphs in bf16 alone, not in {case.precision}; --precision bf16 works"
    if case.training.data_shape in ARE_PACKED:
        return f"Megatron-Core has no packed sequences in CUDA graphs; leave out +{case.training.data_shape}"
    if case.transport == _THROUGH_HOST and (case.layout.tp > 1 or case.layout.cp > 1):
        return (
            f"CUDA graphs of attention in {case.layout.name} have exchanges of ranks in them, and over {_THROUGH_HOST} the "
            "host exchanges; --transport nccl works, with a GPU for each rank, or a layout without tp and cp"
        )
    return None
