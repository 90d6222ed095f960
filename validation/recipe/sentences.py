"""What is said of a stand-in: what it holds, what of the signature it lacks, and what its size hides."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from validation.case.plural import many
from validation.recipe import ranks
from validation.recipe.pipeline import chunks, summary
from validation.recipe.signature import MORE, ONE, SIZE, STAGE, TWO, YES, Full

_SIZES = {ONE: "1 rank", TWO: "2 ranks", MORE: "3 ranks or more"}
_LIES = {
    ranks.EQUAL: "the same ranks as {} groups",
    ranks.INSIDE: "parts of {} groups",
    ranks.AROUND: "made of whole {} groups",
    ranks.CROSSING: "overlapping with {} groups",
    ranks.APART: "across {} groups, one rank in each",
}
_COUNTS = {
    "num_hidden_layers": "layer",
    "num_nextn_predict_layers": "MTP layer",
    "n_routed_experts": "expert",
    "num_experts_per_tok": "expert of a token",
    "n_group": "group of experts",
    "num_attention_heads": "head",
    "n_shared_experts": "shared expert",
}
_WIDTHS = {"hidden_size": "hidden size", "moe_intermediate_size": "expert width", "vocab_size": "vocabulary"}


def inventory(full: Full) -> str:
    """Layout, ranks, layers, experts and width in one line."""
    model, layout = full.model, full.layout
    stages = f" ({summary(chunks(model, layout, full.options.split))} a stage)" if layout.pp > 1 else ""
    said = [f"{layout.name}, {many(layout.ranks, 'rank')}", many(model.num_hidden_layers, "layer") + stages]
    if model.expert_blocks:
        said += [f"{many(model.n_routed_experts, 'expert')} ({model.n_routed_experts // layout.ep} a rank)"]
    said += [many(model.num_nextn_predict_layers, "MTP layer")] if model.num_nextn_predict_layers else []
    said += [f"hidden size {model.hidden_size}"]
    said += [f"sequences of {many(full.seq_length, 'token')}"] if full.seq_length else []
    return ", ".join(said)


def lost(parts: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    """What of the signature the stand-in lacks, a sentence each. A group of two kinds is left out where one of them is said."""
    said = {name: _lost(name, *values) for name, *values in parts}
    return tuple(sentence for name, sentence in said.items() if not _follows(name, said))


def _follows(name: str, said: Container[str]) -> bool:
    degrees = (ranks.DENSE | ranks.EXPERTS).get(name.removeprefix(SIZE), ())
    return len(degrees) > 1 and any(SIZE + word in said for word in degrees)


def _lost(name: str, full: str, small: str) -> str:
    if name.startswith(SIZE):
        return f"{name.removeprefix(SIZE)} groups have {_SIZES[full]} at full size, and {_SIZES[small]} here"
    if " to " in name:
        first, second = name.split(" to ")
        return f"{first} groups are {_LIES[full].format(second)} at full size, and {_LIES[small].format(second)} here"
    if name.startswith(STAGE):
        kind = name.removeprefix(STAGE).replace("+", ", ")
        where, other = ("at full size", "here") if full == YES else ("here", "at full size")
        return f"a pipeline stage that holds {kind} and nothing else is there {where} and not {other}"
    return f"{name}: {full} at full size, {small} here"


def limits(full: Full, small: Full) -> tuple[str, ...]:
    """What the stand-in's size hides, a sentence each."""
    return (*_of_groups(full, small), *_of_the_model(full, small))


def _of_groups(full: Full, small: Full) -> Iterator[str]:
    there = {**ranks.degrees(full.layout), "vpp": full.layout.vpp}
    here = {**ranks.degrees(small.layout), "vpp": small.layout.vpp}
    if fewer := [f"{word}{there[word]} is {word}{here[word]}" for word in there if there[word] > here[word]]:
        yield f"{', '.join(fewer)} here: a bug that needs larger groups does not show"
    if full.layout.ranks > small.layout.ranks:
        yield f"{many(full.layout.ranks, 'rank')} are {small.layout.ranks} here, on one machine: no network is between them"


def _of_the_model(full: Full, small: Full) -> Iterator[str]:
    pairs = [(words, getattr(full.model, name), getattr(small.model, name)) for name, words in _COUNTS.items()]
    if fewer := [f"{many(there, words)} are {here}" for words, there, here in pairs if there > here]:
        yield f"{', '.join(fewer)} here: a bug of a higher number does not show"
    pairs = [(word, getattr(full.model, name), getattr(small.model, name)) for name, word in _WIDTHS.items()]
    if shorter := [f"{word} {there} is {here}" for word, there, here in pairs if there > here]:
        yield f"{', '.join(shorter)} here: sums are shorter, so they round less"
    if full.seq_length and small.seq_length and full.seq_length > small.seq_length:
        yield f"sequences of {many(full.seq_length, 'token')} have {small.seq_length} here: late positions do not show"
    if full.model.n_shared_experts == 0 and full.model.expert_blocks:
        yield "the model has no shared expert, and the stand-in has one: HuggingFace's model always has one"
