"""Cases in mode inference: the phases of a sequence that is prefilled and decoded, and what is compared in each. No torch.

A case's sequences are cut in two: a prompt, which one forward pass takes in, and tokens that are given one by one. Then other
weights are put in the place of the first, as in every step of reinforcement learning, and all is done again. Last, both models
generate: each says which token it would take next, and goes on with HuggingFace's. A name in the ranks' reports is the phase
and the probe: `decode/layers.1.attention.output`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.plural import many
from validation.case.probes import Probe, probes
from validation.case.training import Training

NONE, STATIC, DYNAMIC = "none", "static", "dynamic"
"""No inference; megatron-core's context with a buffer of the largest size for each sequence; the one with blocks of latents, in
which each sequence is a request with a prompt of its own length.
"""
BLOCK, CHUNK = 64, 40
"""Tokens of a block of cached latents, which FlashMLA fixes, and of the first chunk of a prompt that is taken in in two."""
FULL, PREFILL, DECODE = "full", "prefill", "decode"
UPDATED = "updated-"
"""Before a phase: it is computed with the second weights."""
TITLES = {
    FULL: "Full Forward",
    PREFILL: "Prefill",
    DECODE: "Decode",
    f"{UPDATED}{FULL}": "Updated Full Forward",
    f"{UPDATED}{PREFILL}": "Updated Prefill",
    f"{UPDATED}{DECODE}": "Updated Decode",
}
"""Phase -> what stands before the probe in a check's title, in the order in which ranks take them.

`full` is the candidate's own forward pass over all tokens, without a cache: the second witness.
"""
KINDS = ("attention.output", "moe.router.experts", "output", "logits")
"""The kinds of probes that are compared at every position."""
GREEDY, GREEDY_TITLE, GENERATED = "greedy/tokens", "Greedy Tokens", 64
"""What both models generate behind each prompt, and how many tokens. The second weights are in place then."""
GENERATION = "generation-"
"""Before a layer: what its router chooses while both models generate. As `UPDATED` for phases with the second weights."""
IDLE = "idle"
"""The phase of what a rank computes because others need it: nothing of it is compared."""
FLIPS = "flips/"
"""Before a name: by how much HuggingFace prefers its token, where the candidate would take another one, in the same file."""
MARGIN = 1e-10
"""Of the largest logit: how near two logits must be for rounding to choose between them in fp64."""
WITNESS = "cached"
"""In a reference's facts: how far HuggingFace's logits with a cache are from those without, as a relative error."""


@dataclass(frozen=True)
class Inferred:
    """What is compared of a probe in one phase; `start` is the position of the sequence at which the phase begins."""

    phase: str
    probe: Probe
    start: int
    runs: tuple[tuple[int, int, int], ...] = ()
    """Of requests: the sequence, and its first position and the one behind its last, one run of tokens behind the other."""

    @property
    def name(self) -> str:
        """In the ranks' reports and in the reference."""
        return f"{self.phase}/{self.probe.name}"

    @property
    def title(self) -> str:
        """The check's: `Decode Layer 1 Attention Output`."""
        return f"{TITLES[self.phase]} {self.probe.title}"

    @property
    def routes(self) -> bool:
        """Whether the tensor is a map of chosen experts."""
        return self.probe.kind == "moe.router.experts"

    def place(self, row: int, position: int) -> tuple[int, int]:
        """The row and the position of this tensor that a position of a sequence of the batch has."""
        before = 0
        for request, first, last in self.runs:
            if request == row:
                return 0, before + position - first
            before += last - first
        return row, position - self.start


@dataclass(frozen=True)
class Arrival:
    """A request: its sequence, the length of its prompt, the step in which it comes, and whether its prompt is cut in two.

    `again` says that the same has come before, whose blocks it may take.
    """

    row: int
    prompt: int
    step: int
    chunked: bool = False
    again: bool = False


def arrivals(case: Case) -> tuple[Arrival, ...]:
    """The requests of a case with a dynamic context, in the order in which they come.

    Prompts end at the border of a block and behind it; one has a single token, and one comes in two chunks. Some requests
    come while others are decoded, and go while others stay. Each data-parallel rank has requests of its own.
    """
    length, share = case.seq_length, case.batch_size // case.layout.data_parallel
    prompts = [of_sequence(length) for of_sequence in _PROMPTS]
    cut = 3 if prompts[3] > CHUNK else None
    return tuple(Arrival(row, prompts[row % 4], 3 * (row % share // 2), row % 4 == cut) for row in range(case.batch_size))


_PROMPTS: tuple[Callable[[int], int], ...] = (
    lambda length: length * 3 // 4,
    lambda length: BLOCK if length > BLOCK else length // 3,
    lambda length: 1,
    lambda length: length - 2,
)
"""The length of the first request's prompt, and of those after it, in turn, by that of its sequence."""


def infers(case: Case) -> bool:
    """Whether the case is one of inference."""
    return case.training.inference != NONE


def usual_batch_size(base: int, layout: Layout, training: Training) -> int:
    """The preset's, `base`; of requests as many on each data-parallel rank, so that expert ranks end in the same step."""
    return base * (layout.data_parallel if training.inference == DYNAMIC else 1)


def usual_seq_length(base: int, training: Training) -> int:
    """The preset's, `base`, but no more tokens than it takes: every decoded token is a forward pass of its own.

    Requests have twice as many, so that prompts end at the border of a block and behind it.
    """
    usual = {STATIC: min(base, _LONGEST), DYNAMIC: min(2 * base, _LONGEST + BLOCK)}
    return usual.get(training.inference, base)


def rows(case: Case, rank: int) -> slice:
    """The sequences of a data-parallel rank: with fewer of them than ranks none of some."""
    ranks = case.layout.data_parallel
    return slice(case.batch_size * rank // ranks, case.batch_size * (rank + 1) // ranks)


def expert_capacity(case: Case) -> float | None:
    """How many times its even share of tokens an expert gets rows for while tokens are decoded; None for as many as it has."""
    given = dict(case.training.settings)
    found = given.get("model.moe_expert_capacity_factor")
    pads = infers(case) and given.get("model.moe_pad_expert_input_to_capacity") and case.model.moe_layers
    return float(found) if pads and isinstance(found, int | float) else None


def prompt_length(case: Case) -> int:
    """How many tokens of each sequence are prefilled: three quarters."""
    return case.seq_length * 3 // 4


def prompt_lengths(case: Case) -> tuple[int, ...]:
    """The same of each sequence: requests have prompts of their own."""
    if case.training.inference == DYNAMIC:
        return tuple(one.prompt for one in arrivals(case))
    return (prompt_length(case),) * case.batch_size


def uses_sequence_parallel(case: Case) -> bool:
    """Whether the model is built with sequence parallelism.

    megatron-core generates with a static context without it, but for layers of experts that are spread over ranks. It cannot
    cache latents with it: each rank has its part of the latents then, and all of the rotated keys, which are joined.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/inference/text_generation_controllers/text_generation_controller.py
    """
    of_experts = case.layout.ep > 1 and case.training.inference == STATIC
    return case.layout.uses_sequence_parallel and (of_experts or not infers(case))


def replicated(case: Case) -> bool:
    """Whether tensor-parallel ranks compute what all of them hold in the same way, to the bit.

    Without sequence parallelism each sends its own copy of every token to the experts, and adds up what comes back in an order
    of its own. With a dynamic context a request may come twice, beside other tokens each time.
    """
    alone = case.training.inference != DYNAMIC
    return alone and (case.layout.tp == 1 or not case.model.moe_layers)


def span(case: Case, phase: str) -> tuple[int, int]:
    """The positions of a phase: the first, and the one behind the last."""
    prompt, length = prompt_length(case), case.seq_length
    return {FULL: (0, length), PREFILL: (0, prompt), DECODE: (prompt, length)}[phase.removeprefix(UPDATED)]


def witness(one: Inferred) -> str:
    """The name of the same tensor in the candidate's own full forward with the same weights; empty for a part of that.

    A case may not have it: `phases`.
    """
    own = UPDATED if one.phase.startswith(UPDATED) else ""
    return "" if one.phase == f"{own}{FULL}" else f"{own}{FULL}/{one.probe.name}"


def generated(case: Case) -> tuple[int, int]:
    """The shape of what is generated: [batch, tokens]."""
    return case.batch_size, GENERATED


def _runs(case: Case, phase: str) -> tuple[tuple[int, int, int], ...]:
    """The parts of sequences that a phase of requests has, each request's behind the one before; none if it has whole rows."""
    if case.training.inference != DYNAMIC or phase == FULL:
        return ()
    if phase.removeprefix(UPDATED) == PREFILL:
        return tuple((one.row, 0, one.prompt) for one in arrivals(case))
    return tuple((one.row, one.prompt, case.seq_length) for one in arrivals(case))


def phases(case: Case) -> tuple[str, ...]:
    """Those of a case. A model that has absorbed its weights has no full forward any more."""
    if not infers(case):
        return ()
    return tuple(phase for phase in TITLES if case.training.inference == STATIC or phase != f"{UPDATED}{FULL}")


@functools.cache
def inferred(case: Case) -> Mapping[str, Inferred]:
    """All that is compared of a case in mode inference by name, phase by phase in the flow of data; nothing of another case.

    Of requests the tokens of a phase stand one behind the other: their tensors have one row.
    """
    found: dict[str, Inferred] = {}
    for phase in phases(case):
        (start, stop), runs = span(case, phase), _runs(case, phase)
        shape = (1, sum(last - first for _, first, last in runs)) if runs else (case.batch_size, stop - start)
        for probe in probes(case.model, *shape).values():
            if probe.kind in KINDS:
                one = Inferred(phase, probe, 0 if runs else start, runs)
                found[one.name] = one
    return MappingProxyType(found)


def token(one: Inferred, position: int) -> str:
    """Which token a position of a phase is, in words."""
    before = 0
    for row, first, last in one.runs:
        if position < before + last - first:
            return f"token {first + position - before} of request {row}"
        before += last - first
    return f"token {one.start + position} of the sequence"


def generates(case: Case) -> bool:
    """Whether both models generate, too."""
    return infers(case)


# What such a case cannot have


def compares_precision(case: Case) -> str | None:
    """Nobody has measured inference in fp16."""
    if not infers(case) or case.precision != "fp16":
        return None
    return f"+{case.training.inference} is compared in fp64, fp32 and bf16, and not yet in fp16; --precision bf16 works"


def layout_infers(case: Case) -> str | None:
    """megatron-core's inference has neither context parallelism nor virtual stages, and no model with MTP layers."""
    layout, word = case.layout, case.training.inference
    if not infers(case):
        return None
    if layout.cp > 1:
        return f"{case.arrangement}: Megatron-Core's inference has no context parallelism; leave cp{layout.cp} or +{word} out"
    if layout.vpp > 1:
        return f"{case.arrangement}: Megatron-Core's inference has no virtual stages; leave vpp{layout.vpp} or +{word} out"
    if case.model.num_nextn_predict_layers:
        return (
            f"{case.arrangement}: Megatron-Core's inference uses MTP layers for drafts alone, which are not compared; "
            f"leave +mtp or +{word} out"
        )
    return None


def nothing_is_trained(case: Case) -> str | None:
    """Options of a training step change nothing in inference: a case that has one would claim more than it compares."""
    if not infers(case):
        return None
    word, training = case.training.inference, case.training
    if training.steps:
        return f"+{word} takes no optimizer steps; leave --steps out, or +{word}"
    if case.isolated:
        return f"+{word} takes what the cache holds and --isolated would replace it; leave one of them out"
    usual = Training(inference=word, dispatcher=training.dispatcher, experts=training.experts, stages=training.stages)
    given = dict(training.settings)
    foreign = next((name for name in given if not name.startswith("model.")), "")
    if foreign:
        return f"+{word} trains nothing, and {foreign} is of training; leave one of them out"
    if replace(training, settings=()) != usual:
        named = next(f"+{one}" for one in replace(training, settings=()).words if one not in usual.words)
        return f"+{word} trains nothing and takes whole sequences, and {named} is of training; leave one of them out"
    return None


def requests_have_layers(case: Case) -> str | None:
    """Megatron-core absorbs the weights of Transformer Engine's layers, and Plumbline those of its own."""
    if case.training.inference != DYNAMIC or case.implementation == "local" or case.uses_te:
        return None
    said = f"+dynamic needs layers whose weights can be absorbed, and {case.implementation} has others"
    return f"{said}; --implementation local works, or te on a GPU"


def expert_ranks_end_together(case: Case) -> str | None:
    """An expert rank without requests must take part all the same. megatron-core's way to do so does not work with latents.

    docs/findings/dummy-forward-with-latents.md
    """
    step = len(_PROMPTS) * case.layout.data_parallel
    if case.training.inference != DYNAMIC or case.layout.ep == 1 or case.batch_size % step == 0:
        return None
    said = (
        f"the {many(case.batch_size, 'request')} of {case.arrangement} {'does' if case.batch_size == 1 else 'do'} "
        f"not end on all expert ranks in the same step"
    )
    return f"{said}, and Megatron-Core's dummy_forward fails with cached latents; --batch-size {step} works"


def padded_experts_have_room(case: Case) -> str | None:
    """megatron-core pads decoded tokens to one capacity alone, and its permutation knows no more rows than there are tokens."""
    capacity, enough = expert_capacity(case), case.model.n_routed_experts / max(1, case.model.num_experts_per_tok)
    if capacity is None or capacity == enough:
        return None
    said = (
        f"+{case.training.inference} pads experts to the capacity that Megatron-Core's text generation takes, experts / top-k"
    )
    return f"{said}; moe_expert_capacity_factor={enough:g} works, and {capacity:g} does not"


def idle_ranks_have_no_stages(case: Case) -> str | None:
    """megatron-core's forward pass of an idle expert rank neither receives nor sends between pipeline stages."""
    idle = case.training.inference == STATIC and case.batch_size < case.layout.data_parallel
    if not idle or case.layout.pp == 1:
        return None
    said = f"{case.arrangement} leaves expert ranks without one of {many(case.batch_size, 'sequence')}"
    return f"{said}, and an idle rank has no pipeline stages; --batch-size {case.layout.data_parallel} works"


def experts_are_whole_for_requests(case: Case) -> str | None:
    """Ranks with requests of their own that share an expert's parts wait for each other for ever: seen in etp2, 0.16.1."""
    layout = case.layout
    if case.training.inference != DYNAMIC or not case.model.moe_layers or layout.expert_tp <= layout.tp:
        return None
    return (
        f"{case.arrangement}: ranks that share an expert's parts have requests of their own, and would wait for each other "
        f"for ever; leave etp{layout.expert_tp} out, or +{STATIC} works"
    )


def sequences_are_cut(case: Case) -> str | None:
    """There must be a prompt and a token behind it."""
    if not infers(case) or case.seq_length >= _SHORTEST:
        return None
    return f"+{case.training.inference} needs a prompt and tokens behind it; give --seq-length {_SHORTEST} or more"


_SHORTEST, _LONGEST = 4, 128
RULES: tuple[Callable[[Case], str | None], ...] = (
    compares_precision,
    layout_infers,
    nothing_is_trained,
    requests_have_layers,
    expert_ranks_end_together,
    padded_experts_have_room,
    idle_ranks_have_no_stages,
    experts_are_whole_for_requests,
    sequences_are_cut,
)
