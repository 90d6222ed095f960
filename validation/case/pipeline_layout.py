"""pipeline_model_parallel_layout, a string that says which layers each pipeline stage holds: `E|(t|)*2,mL`.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/pipeline_parallel_layer_layout.py
"""

from __future__ import annotations

import re

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import shown

FIELD = "pipeline_model_parallel_layout"
_REPEATED = (re.compile(r"\(([^()]+)\)\*([0-9]{1,4})"), re.compile(r"([^*])\*([0-9]{1,4})"))
_LONGEST = 1 << 14
"""Characters of a layout string with everything written out: no model has as many layers."""


def parse(text: str) -> tuple[str, ...]:
    """A pipeline layout string as one string a chunk: `E|(t|)*2,mL` is `E`, `t`, `t`, `mL`. Raises UsageError."""
    written = text.replace(",", "")
    for pattern in _REPEATED:
        if sum(len(part) * int(count) for part, count in pattern.findall(written)) > _LONGEST:
            raise UsageError(f"pipeline layout {shown(text)} is too long: it has more than {_LONGEST} letters, written out")
        written = pattern.sub(lambda found: found[1] * int(found[2]), written)
    if wrong := sorted(set(written) - set("EtmL|")):
        raise UsageError(
            f"pipeline layout {shown(text)}: {shown(wrong[0])} is no part of one; E, t, m, L, |, ( )*n and x*n are"
        )
    return tuple(written.split("|"))


def given(case: Case) -> str | None:
    """The layout string of a case, None if it has none."""
    value = dict(case.training.settings).get(f"model.{FIELD}")
    return None if value is None else str(value)


def mtp_beside_loss(case: Case) -> bool:
    """Whether the chunk with the loss has MTP layers, if the model has any: so it is if no layout string says otherwise."""
    text = given(case)
    return text is None or "m" in parse(text)[-1]


def chunk_layers(case: Case) -> tuple[int, ...]:
    """How many layers each virtual stage has, in the order of the model; the case's rules hold."""
    layout, text = case.layout, given(case)
    if text is not None:
        return tuple(row.count("t") for row in parse(text))
    count = layout.pp * layout.vpp
    return case.training.stages or (case.model.num_hidden_layers // count,) * count


def without_experts(case: Case) -> tuple[int, ...]:
    """The pipeline ranks, from 0, that hold no layer of experts; the case's rules hold. MTP layers are where the string says.

    Without a string they are on the last one.
    """
    pp, text = case.layout.pp, given(case)
    counts = chunk_layers(case)
    mtp = [row.count("m") for row in parse(text)] if text else [0] * (len(counts) - 1) + [len(case.model.mtp_layers)]
    having, dense, done = set(), len(case.model.dense_layers), 0
    for chunk, (layers, further) in enumerate(zip(counts, mtp, strict=True)):
        done += layers
        if (layers and done > dense) or further:
            having.add(chunk % pp)
    return tuple(sorted(set(range(pp)) - having))


def it_holds_the_model(case: Case) -> str | None:
    """A stage for each of pp * vpp, the embedding first, then every layer, then every MTP layer, and the loss last."""
    text = given(case)
    if text is None:
        return None
    try:
        rows = parse(text)
    except UsageError as error:
        return str(error)
    layout, model, said = case.layout, case.model, shown(text)
    if case.training.stages:
        return f"{FIELD} {said} and +{'-'.join(map(str, case.training.stages))} both say what stages hold; give one of them"
    if len(rows) != layout.pp * layout.vpp:
        return (
            f"{FIELD} {said} has {many(len(rows), 'stage')}, and pp{layout.pp} with vpp{layout.vpp} has "
            f"{layout.pp * layout.vpp}"
        )
    if not re.fullmatch(r"Et*m*L", "".join(rows)):
        return f"{FIELD} {said}: write E first, then the layers (t), then MTP layers (m), and L last"
    for letter, what, number in (("t", "layer", model.num_hidden_layers), ("m", "MTP layer", len(model.mtp_layers))):
        if text_count := "".join(rows).count(letter) - number:
            return f"{FIELD} {said} has {many(number + text_count, what)} and the model has {number}; write as many {letter}"
    return None


def embeddings_are_summed(case: Case) -> str | None:
    """MTP layers have a copy of the embedding; megatron-core sums its gradient in a rank's last chunk, but for the first rank.

    docs/findings/mtp-embedding-copy-not-summed.md. https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/distributed/finalize_model_grads.py
    (`_allreduce_embedding_grad`).
    """
    text, layout = given(case), case.layout
    if text is None:
        return None
    last = (layout.vpp - 1) * layout.pp
    wrong = [
        place for place, row in enumerate(parse(text)) if "m" in row and place and (place < last or place % layout.pp == 0)
    ]
    if not wrong:
        return None
    virtual, rank = divmod(wrong[0], layout.pp)
    works = f"stage {last + 2}" + (f" to {layout.pp * layout.vpp}" if layout.pp > 2 else "")
    return (
        f"{FIELD} {shown(text)} puts MTP layers on stage {wrong[0] + 1}, virtual stage {virtual} of pipeline rank {rank}. "
        f"Megatron-Core does not sum the gradient of their copy of the embedding there; {works} works"
    )


RULES = (it_holds_the_model, embeddings_are_summed)
