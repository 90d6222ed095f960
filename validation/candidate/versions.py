"""Where releases of megatron-core differ in how they are called; what is computed is the same with all of them.

One entry a difference, with the release that brought it. Each asks what is there and never for a number, so that a checkout
from between two releases runs, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher
from megatron.core.transformer.multi_token_prediction import roll_tensor

try:
    from megatron.core.post_training.modelopt.layers import Linear
except ModuleNotFoundError:
    # Until 0.12 the module imports Transformer Engine. Attention takes any class there.
    Linear = None

RENAMED_FIELDS = {"original_max_position_embeddings": "max_position_embeddings"}
"""Field of the configuration -> its name until 0.13. Both were there never."""
YOUNGER_FIELDS = ("embedding_init_method",)
"""Fields since 0.14 whose absence leaves what they are given for: until then the embedding was initialised by init_method."""


def fields(configuration: type, wanted: dict[str, Any]) -> dict[str, Any]:
    """The values under the names that this release's configuration has. What else it lacks is left for it to refuse."""
    there = {field.name for field in dataclasses.fields(configuration)}
    kept = {name: value for name, value in wanted.items() if name in there or name not in YOUNGER_FIELDS}
    return {name if name in there else RENAMED_FIELDS.get(name, name): value for name, value in kept.items()}


def release(version: str) -> str:
    """What megatron-core calls itself, without the commit that 0.18 and later add: that of the repository around the working
    folder, which is Plumbline's or the user's.
    """
    return version.partition("+")[0]


def _takes(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


def of_stage(function: Callable[..., Any], stage: int | None) -> dict[str, Any]:
    """The argument that names the virtual stage, since 0.13; until then it stands in parallel_state (see `building`)."""
    return {"vp_stage": stage} if _takes(function, "vp_stage") else {}


@contextlib.contextmanager
def building(stage: int | None) -> Iterator[None]:
    """While a chunk of this virtual stage is built: until 0.12 the stage is state of the process."""
    if stage is None or _takes(parallel_state.is_pipeline_first_stage, "vp_stage"):
        yield
        return
    parallel_state.set_virtual_pipeline_model_parallel_rank(stage)
    yield
    parallel_state.set_virtual_pipeline_model_parallel_rank(0)


def context_parallel_group(arguments: dict[str, Any]) -> Any:
    """A core attention's group: handed over as `pg_collection` since 0.15, `model_comm_pgs` since 0.13, before not at all."""
    groups = arguments.get("pg_collection") or arguments.get("model_comm_pgs")
    return groups.cp if groups is not None else parallel_state.get_context_parallel_group()


PACKED_MTP = _takes(roll_tensor, "packed_seq_params")
"""Whether an MTP layer takes packed documents, as from 0.16 on; before, it raises an AssertionError."""

COMBINE = "combine_postprocess" if hasattr(MoETokenDispatcher, "combine_postprocess") else "token_unpermutation"
"""The dispatcher's method that returns the routed experts' output; until 0.12 with a bias that is None."""


def mtp_block(layer: Any) -> Any:
    """The decoder layer within an MTP layer: `mtp_model_layer` since 0.17, `transformer_layer` before."""
    return layer.mtp_model_layer if hasattr(layer, "mtp_model_layer") else layer.transformer_layer


def number_mtp_layers(chunk: Any, layers: int) -> None:
    """Until 0.15 the router of an MTP layer has the number of one of the model's `layers`, whose balancing loss it is added to
    in the log. It gets the one behind them, as from 0.16 on.
    """
    for index, layer in enumerate(chunk.mtp.layers if chunk.mtp_process else ()):
        if not hasattr(layer, "mtp_model_layer"):
            layer.transformer_layer.mlp.set_layer_number(layers + index + 1)


class _DuplicatedLinear(torch.nn.Linear):
    """A linear layer that every tensor-parallel rank holds whole, as modelopt's is."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, bias: bool = False, **_: Any) -> None:
        super().__init__(input_size, output_size, bias=bias, dtype=config.params_dtype)
        # Each rank sees its part of the sequence: the gradients are summed over the ranks, as those of the norms are.
        setattr(self.weight, "sequence_parallel", config.sequence_parallel)  # noqa: B010 - no attribute of a Parameter

    def forward(self, tensor: torch.Tensor) -> Any:
        """Output and no bias, as megatron-core's linear layers return it."""
        return super().forward(tensor), None


DUPLICATED_LINEAR = Linear or _DuplicatedLinear
"""megatron-core's one layer that is whole on every rank without Transformer Engine; from 0.14 attention takes no other."""


def store_biases(chunk: torch.nn.Module) -> None:
    """The routers' biases in float32, as the checkpoint has them and as saving a model leaves them from 0.14."""
    for module in chunk.modules():
        bias = getattr(module, "expert_bias", None)
        if bias is not None:
            bias.data = bias.data.to(torch.float32)


@contextlib.contextmanager
def seen_unpermute(dispatcher: Any, seen: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Within it, `seen` is given what the dispatcher's combining makes of the tokens' rows, and says what it goes on with.

    The tokens stand in their own order there, before anything is added to them. Raises RuntimeError if this never happens.
    """
    module = sys.modules[type(dispatcher).__module__]
    unpermute, calls = vars(module)["unpermute"], 0

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return seen(unpermute(*args, **kwargs))

    vars(module)["unpermute"] = watched
    try:
        yield
    finally:
        vars(module)["unpermute"] = unpermute
    if calls != 1:
        raise RuntimeError(f"{type(dispatcher).__name__} puts tokens back {calls} times in {COMBINE}, and Plumbline knows 1")


_COUNTED_OVER_DATA_RANKS_ALONE = "num_tokens, group=parallel_state.get_data_parallel_group())" in inspect.getsource(
    finalize_model_grads
)


def counted_tokens(tokens: torch.Tensor) -> torch.Tensor:
    """The tokens that a rank reports with its loss: its own; until 0.12 those of its context-parallel ranks together.

    Gradients are summed over data-parallel and context-parallel ranks, and until then the number over the former alone.
    """
    if _COUNTED_OVER_DATA_RANKS_ALONE:
        tokens = tokens.clone()
        torch.distributed.all_reduce(tokens, group=parallel_state.get_context_parallel_group())
    return tokens


def once_for_each_rank(loss: torch.Tensor) -> torch.Tensor:
    """A micro-batch's summed loss, as many times as it has context-parallel ranks; until 0.12 the schedule multiplies it."""
    return loss if _COUNTED_OVER_DATA_RANKS_ALONE else loss * parallel_state.get_context_parallel_world_size()
