"""Arguments of forks of Megatron-LM that say otherwise what fields of Megatron-Core say: layers, and sparse attention.

MindSpeed: `--noop-layers` (mindspeed/features_manager/pipeline_parallel/noop_layers.py), `--num-layer-list`
(mindspeed_llm/training/arguments.py), `--first-k-dense-replace`, and `--enable-dsa-indexer`
(mindspeed_llm/features_manager/transformer/multi_latent_attention/dsa_indexer_feature.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from validation.case.annotation import Value
from validation.case.plural import many
from validation.case.sparse import VARIANT
from validation.case.strangers import quoted
from validation.recipe.values import Arguments

MOST_LAYERS = 100_000
"""No model has as many."""
_INDEXER: Mapping[str, Value] = {
    "dsa_indexer_topk": 2048,
    "dsa_indexer_n_heads": 64,
    "dsa_indexer_head_dim": 128,
    "dsa_indexer_loss_coeff": 1.0,
}
"""What the indexer of MindSpeed-LLM has if nothing is said."""


def apply(arguments: Arguments) -> None:
    """Set what follows from a fork's arguments before any stage is made of layers."""
    source, layers = arguments.trainer.source, arguments.number("num_layers")
    if 0 < (dense := arguments.number("first_k_dense_replace")) <= MOST_LAYERS:
        freq = (*(0,) * dense, *(1,) * (min(layers, MOST_LAYERS) - dense))
        arguments.follows("moe_layer_freq", freq, "first_k_dense_replace", source)
    if (counts := _counts(arguments)) and not next(wrong(arguments), ""):
        rows = _ended(["t" * count for count in counts], min(arguments.number("mtp_num_layers"), layers))
        arguments.follows("pipeline_model_parallel_layout", "|".join(rows), "num_layer_list", source)
    if arguments["enable_dsa_indexer"]:
        arguments.follows("experimental_attention_variant", VARIANT, "enable_dsa_indexer", source)
        for name, value in _INDEXER.items():
            if arguments[name] is None:
                arguments.follows(name, value, "enable_dsa_indexer", source)


def without_noop(arguments: Arguments, virtual: int) -> None:
    """Leave out layers that compute nothing: the others, and the stages that hold them.

    MindSpeed cuts all layers into equal stages and then puts a layer that returns its input in the place of each of these.
    `virtual` is the number of virtual stages on each rank. Layers that `wrong` refuses stay, and so do those that
    fill no virtual stages equally: nothing stands for either.
    """
    noop = _noop(arguments)
    ranks = max(arguments.number("pipeline_model_parallel_size"), 1)
    stages = ranks * max(virtual, 1)
    if not noop or next(wrong(arguments), "") or arguments.number("num_layers") % stages:
        return
    because, source, layers = "noop_layers", arguments.trainer.source, arguments.number("num_layers")
    kept = [layer for layer in range(layers) if layer not in noop]
    frequency = arguments["moe_layer_freq"]
    if frequency not in (1, None):
        found = tuple(int(_has_experts(frequency, layer)) for layer in kept)
        arguments.follows("moe_layer_freq", found, f"{because} first_k_dense_replace", source)
    if ranks > 1:
        each = layers // stages
        rows = ["t" * sum(layer // each == stage for layer in kept) for stage in range(stages)]
        rows = _ended(rows, min(arguments.number("mtp_num_layers"), layers))
        arguments.follows("pipeline_model_parallel_layout", "|".join(rows), because, source)
    arguments.follows("num_layers", len(kept), because, source)


def _ended(rows: Sequence[str], mtp: int) -> list[str]:
    """The letters of stages with embedding, MTP layers and loss at their ends."""
    first = "E" + rows[0]
    return [first, *rows[1:-1], rows[-1] + "m" * mtp + "L"] if len(rows) > 1 else [first + "m" * mtp + "L"]


def wrong(given: Arguments) -> Iterator[str]:
    """A sentence on each value of these arguments with which MindSpeed does not train."""
    yield from _wrong_counts(given)
    text, layers = given["noop_layers"], given.number("num_layers")
    if not isinstance(text, str):
        return
    ranks = max(given.number("pipeline_model_parallel_size"), 1)
    beside = [
        name
        for name in (
            "num_layer_list",
            "pipeline_model_parallel_layout",
            "decoder_first_pipeline_num_layers",
            "decoder_last_pipeline_num_layers",
        )
        if given[name] is not None
    ]
    numbers = text.split(",")
    if not all(number.isdecimal() and number.isascii() and len(number) < len(str(MOST_LAYERS)) for number in numbers):
        yield f"--noop-layers takes numbers of layers from 0 with commas between them, such as 61,62,63, and not {quoted(text)}"
    elif out := [number for number in numbers if int(number) >= layers]:
        yield f"--noop-layers {text} names layer {out[0]}, and the {many(layers, 'layer')} begin with 0; give others"
    elif len(set(map(int, numbers))) == layers:
        yield f"--noop-layers {text} leaves no layer that computes something; give fewer"
    elif beside:
        flag = "--" + beside[0].replace("_", "-")
        yield f"--noop-layers and {flag} both say what stages hold; keep one"
    elif layers > MOST_LAYERS or layers % ranks:
        said = f"{many(layers, 'layer')} with these do not fill pp{ranks} equally"
        yield f"--noop-layers {text}: {said}; give a multiple of {ranks}"


def _counts(arguments: Arguments) -> tuple[int, ...]:
    """How many layers each stage has, as a list says it; nothing if it says no numbers."""
    text = arguments["num_layer_list"]
    parts = text.split(",") if isinstance(text, str) else ()
    known = all(part.isdecimal() and part.isascii() and len(part) < len(str(MOST_LAYERS)) for part in parts)
    return tuple(map(int, parts)) if known else ()


def _wrong_counts(given: Arguments) -> Iterator[str]:
    text, layers = given["num_layer_list"], given.number("num_layers")
    ranks = max(given.number("pipeline_model_parallel_size"), 1)
    if not isinstance(text, str):
        return
    if not (counts := _counts(given)):
        yield f"--num-layer-list takes a number of layers for each stage, such as 7,8,8,7, and not {quoted(text)}"
    elif len(counts) != ranks or sum(counts) != layers:
        said = f"{many(sum(counts), 'layer')} for {many(len(counts), 'stage')}"
        yield f"--num-layer-list {text} has {said}, and the model {layers} for pp{ranks}; give as many"


def _noop(arguments: Arguments) -> frozenset[int]:
    text = arguments["noop_layers"]
    numbers = text.split(",") if isinstance(text, str) else ()
    return frozenset(int(number) for number in numbers if number.isdecimal() and number.isascii() and len(number) < 6)


def _has_experts(frequency: Value, layer: int) -> bool:
    """Whether a layer, from 0, has experts: every `frequency`-th has, or those that a list says."""
    if isinstance(frequency, tuple):
        return layer < len(frequency) and bool(frequency[layer])
    return isinstance(frequency, int) and frequency > 0 and layer % frequency == 0
