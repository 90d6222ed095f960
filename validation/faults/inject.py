"""How faults are put into a rank. A rank is a process of its own: what is changed here ends with it.

torch and megatron-core are imported when a fault is put in: its file is also the table's row, which is read without them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from validation.run.plugin import Elsewhere

CORE = "megatron.core"


def replace(module: str, name: str, made: Callable[[Any], Any]) -> None:
    """Put what `made` makes of something sound in its place: `name` of a module, or `Class.name`.

    Raises KeyError where there is none: a fault that has nothing to be put into is no fault.
    """
    *outer, last = name.split(".")
    place = importlib.import_module(module)
    for part in outer:
        place = vars(place)[part]
    sound = vars(place)[last]
    static = isinstance(sound, staticmethod)
    wrong = made(sound.__func__ if static else sound)
    setattr(place, last, staticmethod(wrong) if static else wrong)


def layer(model: Any, number: int) -> Any:
    """The layer of that number, counted from 0 over the whole model.

    Raises Elsewhere if another stage has it, which ends the plugin's function for these chunks, and KeyError if none has.
    """
    for found in layers(model):
        if found.layer_number - 1 == number:
            return found
    if number < model[0].config.num_layers:
        raise Elsewhere(f"layer {number}")
    raise KeyError(f"layer {number}")


def layers(model: Any) -> list[Any]:
    """All layers of this rank's chunks."""
    return [layer for chunk in model for layer in chunk.decoder.layers]


def latent_norm(found: Any, latent: str) -> tuple[Any, Any]:
    """What norms a layer's latent, `q` or `kv`, and its weight: a norm, or Transformer Engine's projection behind it."""
    attention = found.self_attention
    joined = getattr(attention, f"linear_{latent}_up_proj")
    if hasattr(joined, "layer_norm_weight"):
        return joined, joined.layer_norm_weight
    norm = getattr(attention, f"{latent}_layernorm")
    return norm, norm.weight


def expert_weights(module: Any) -> list[tuple[str, int, Any]]:
    """Each weight of a single expert with what it is called beside the expert's number, and that number."""
    expert = re.compile(r"(?<=local_experts\.)\d+|(?<=linear_fc[12]\.weight)\d+$")
    found = ((name, expert.search(name), weight) for name, weight in module.named_parameters())
    return [(expert.sub("", name), int(match.group()), weight) for name, match, weight in found if match]


def embedding_copies(model: Any) -> list[Any]:
    """The word embeddings of chunks that are not the first: an MTP layer on another stage has a copy."""
    return [chunk.embedding.word_embeddings.weight for chunk in model if hasattr(chunk, "embedding") and not chunk.pre_process]


def master_of(weight: Any) -> Any:
    """What an optimizer steps of a weight: its master in float32 below that, else the weight itself."""
    master = getattr(weight, "main_param", None)
    return weight if master is None else master


def unmark(weight: Any) -> None:
    """Have finalize_model_grads take a weight for one whose ranks see the whole sequence."""
    from validation.case.errors import UsageError

    if not getattr(weight, "sequence_parallel", False):
        raise UsageError(
            "this implementation does not mark the weight as sequence-parallel; --no-self-test runs without faults"
        )
    weight.sequence_parallel = False


class Loaded:
    """What a rank has loaded, before it is compared with the checkpoint."""

    def __init__(self, held: Any, checkpoint: Any) -> None:
        self._held, self._checkpoint = held, checkpoint

    def parts(self, name: str) -> Iterator[tuple[Any, Any]]:
        """(what it is of the checkpoint, a view of it in the rank) for each part of a parameter that the rank holds."""
        return ((part, part.of(tensor)) for tensor, parts in self._held for part in parts if part.parameter.name == name)

    def part(self, name: str) -> Any:
        """The view of the one part that the rank holds."""
        ((_, view),) = self.parts(name)
        return view

    def read(self, name: str, box: Any) -> Any:
        """Another part of the checkpoint, as (start, stop) for each dimension."""
        return self._checkpoint.read(name, tuple(slice(start, stop) for start, stop in box))

    def names(self) -> list[str]:
        """The parameters of which this rank holds something."""
        return list(dict.fromkeys(part.parameter.name for _, parts in self._held for part in parts))


def after_loading(change: Callable[[Loaded], None]) -> None:
    """Have `change` called with what a rank has loaded: a converter that is wrong."""
    import torch

    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def copy_weights(held: Any, checkpoint: Any) -> None:
            sound(held, checkpoint)
            with torch.no_grad():
                change(Loaded(held, checkpoint))

        return copy_weights

    replace("validation.candidate.load", "copy_weights", made)


def after_finalizing(change: Callable[[Any], None]) -> None:
    """Have `change` called with the wrapped chunks when finalize_model_grads has reduced their gradients."""

    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def finalize(model: Any, *rest: Any, **keywords: Any) -> None:
            sound(model, *rest, **keywords)
            change(model)

        return finalize

    replace("validation.candidate.build", "finalize_model_grads", made)


def after_resuming(change: Callable[[Any], Any]) -> None:
    """Have `change` called with the optimizer (validation.candidate.optimizer) of a run that has been resumed."""

    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def load(chunks: Any, optimizer: Any, folder: Any) -> None:
            sound(chunks, optimizer, folder)
            change(optimizer)

        # A rank that builds its model again is configured again, and this puts nothing around itself.
        return sound if sound.__qualname__ == load.__qualname__ else load

    replace("validation.candidate.checkpointing", "load", made)


def states(optimizer: Any) -> list[dict[str, Any]]:
    """What the rank's AdamW keeps of each of its parameters."""
    return [state for part in optimizer.parts for state in part.optimizer.state.values()]


@contextmanager
def own_part_only() -> Iterator[None]:
    """Within it sums over ranks leave each rank what it has."""
    import torch.distributed as dist
    from megatron.core.tensor_parallel import mappings

    def scatter(output: Any, whole: Any, *_: Any, group: Any = None, **__: Any) -> None:
        output.copy_(whole.chunk(dist.get_world_size(group))[dist.get_rank(group)])

    places: list[tuple[Any, str, Any]] = [
        (dist, "all_reduce", lambda *given, **keywords: None),
        (dist, "reduce_scatter_tensor", scatter),
        (mappings, "dist_reduce_scatter_func", scatter),  # the same, as megatron-core names it when it is imported
    ]
    kept = [(module, name, vars(module)[name]) for module, name, _ in places if name in vars(module)]
    for module, name, lost in places:
        vars(module)[name] = lost
    try:
        yield
    finally:
        for module, name, sound in kept:
            vars(module)[name] = sound


def rounded(tensor: Any) -> Any:
    """The tensor with its values rounded to bfloat16, gradients passing."""
    import torch

    return tensor + (tensor.detach().to(torch.bfloat16).to(tensor.dtype) - tensor.detach())
