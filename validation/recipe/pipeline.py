"""What each stage of a pipeline holds: the embedding, layers of either kind, layers of multi-token prediction, the loss.

A chunk is a stage, or one of a rank's virtual stages. Chunks stand in the order of the model: chunk `i` is on rank `i % pp`.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/pipeline_parallel_layer_layout.py
https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/transformer_block.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.pipeline_layout import parse
from validation.case.plural import many
from validation.case.strangers import shown

_LETTERS = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}


@dataclass(frozen=True)
class Split:
    """How layers are divided among stages, in upstream's words; as even as can be where nothing is said.

    `layout` is pipeline_model_parallel_layout. `first` and `last` are num_layers_in_first_pipeline_stage and
    num_layers_in_last_pipeline_stage. `embedding` and `loss` are account_for_embedding_in_pipeline_split and
    account_for_loss_in_pipeline_split: embedding or loss takes the place of a layer.
    """

    layout: str | None = None
    first: int | None = None
    last: int | None = None
    embedding: bool = False
    loss: bool = False


EVEN = Split()


@dataclass(frozen=True)
class Chunk:
    """What one virtual stage holds: numbers of dense, expert and MTP layers, and whether embedding and loss are there."""

    embedding: bool
    dense: int
    experts: int
    mtp: int
    loss: bool

    @property
    def layers(self) -> int:
        """Layers of the main model."""
        return self.dense + self.experts

    @property
    def kind(self) -> str:
        """What is there, without numbers: `embedding+dense`, `experts+mtp+loss`, `nothing`."""
        words = ("embedding", "dense", "experts", "mtp", "loss")
        return "+".join(word for word in words if getattr(self, word)) or "nothing"


def chunks(model: Model, layout: Layout, split: Split = EVEN) -> tuple[Chunk, ...]:
    """The chunks of a pipeline, in the order of the model. Raises UsageError if the layers do not fit the stages."""
    rows = parse(split.layout) if split.layout else _rows(model, layout, split)
    wanted = layout.pp * layout.vpp
    if len(rows) != wanted:
        raise UsageError(f"pipeline layout {shown(split.layout or '')} has {many(len(rows), 'stage')}; pp * vpp is {wanted}")
    text = "".join(rows)
    sound = text.startswith("E") and text.endswith("L") and (text.count("E"), text.count("L")) == (1, 1)
    if not sound or "t" in text[text.find("m") :] * ("m" in text):
        raise UsageError(f"pipeline layout {shown('|'.join(rows))}: write E first, then layers (t), MTP layers (m), and L last")
    counts = {"layer": ("t", model.num_hidden_layers), "MTP layer": ("m", model.num_nextn_predict_layers)}
    for what, (letter, number) in counts.items():
        if text.count(letter) != number:
            raise UsageError(
                f"pipeline layout {shown('|'.join(rows))} has {many(text.count(letter), what)} and the model has {number}; "
                f"write as many {letter}"
            )
    return _filled(rows, len(model.dense_layers))


def _filled(rows: Sequence[str], dense: int) -> tuple[Chunk, ...]:
    found, before = [], 0
    for row in rows:
        layers = row.count("t")
        plain = min(max(dense - before, 0), layers)
        found.append(Chunk("E" in row, plain, layers - plain, row.count("m"), "L" in row))
        before += layers
    return tuple(found)


def joined(rows: object, source: str) -> str:
    """The pipeline layout string of lists of words, such as (("embedding", "decoder"), ("loss",)). Raises UsageError."""
    stages = [row if isinstance(row, (list, tuple)) else [row] for row in rows] if isinstance(rows, (list, tuple)) else []
    words = [[str(word).strip() for word in stage] for stage in stages]
    if wrong := [word for stage in words for word in stage if word.lower() not in _LETTERS and word not in _LETTERS.values()]:
        raise UsageError(f"{source}: {shown(wrong[0])} is no part of a pipeline layout; {', '.join(_LETTERS)} are")
    return "|".join("".join(_LETTERS.get(word.lower(), word) for word in stage) for stage in words)


def written(found: Sequence[Chunk]) -> str:
    """The pipeline layout string of chunks, which `parse` reads back."""
    return "|".join("E" * chunk.embedding + "t" * chunk.layers + "m" * chunk.mtp + "L" * chunk.loss for chunk in found)


def _rows(model: Model, layout: Layout, split: Split) -> tuple[str, ...]:
    """The chunks that upstream makes without a layout string."""
    counts = [count for _ in range(layout.vpp) for count in _counts(model.num_hidden_layers, layout, split)]
    counts[0] -= split.embedding
    counts[-1] -= split.loss
    rows = ["t" * count for count in counts]
    rows[0] = "E" + rows[0]
    rows[-1] += "m" * model.num_nextn_predict_layers + "L"
    return tuple(rows)


def _counts(layers: int, layout: Layout, split: Split) -> tuple[int, ...]:
    """Layers of one virtual stage of each rank, those that embedding and loss stand for included. Raises UsageError."""
    pp, vpp = layout.pp, layout.vpp
    ends = (None if pp == 1 and split.last else split.first, split.last)  # of one stage upstream takes the last
    left = layers + split.embedding + split.loss - sum(filter(None, ends))
    between = pp - sum(end is not None for end in ends)
    each, odd = divmod(left, between) if between > 0 else (0, left)
    stages = [each] * max(between, 0)
    stages = [end for end in ends[:1] if end] + stages + [end for end in ends[1:] if end]
    if odd or left < 0 or len(stages) != pp or any(count % vpp for count in stages):
        virtual = f" with {vpp} virtual stages each" if vpp > 1 else ""
        ends_said = "".join(f", {end} of them in the {word}" for word, end in zip(("first", "last"), ends, strict=True) if end)
        raise UsageError(
            f"{many(layers, 'layer')}{ends_said} {'does' if layers == 1 else 'do'} not fill the "
            f"{many(pp, 'stage')}{virtual} equally; --pipeline-model-parallel-layout says what each holds"
        )
    return tuple(count // vpp for count in stages)


def summary(found: Sequence[Chunk]) -> str:
    """The layers of the chunks, alike ones in a row together: `4, 14 x 4, 1`."""
    runs = [(count, len(list(run))) for count, run in groupby(chunk.layers for chunk in found)]
    return ", ".join(f"{times} x {count}" if times > 1 else str(count) for count, times in runs)
