"""Which faults of the catalogue a run plants, and in what: small cases like its own. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from validation import checkout
from validation.case import life
from validation.case.case import Case
from validation.case.inference import DYNAMIC, STATIC, infers
from validation.case.layout import Layout
from validation.case.training import Training
from validation.case.vocabulary import padded
from validation.faults import catalogue
from validation.faults.fault import Fault
from validation.run.known import mended
from validation.run.options import Settings


@dataclass(frozen=True)
class Plant:
    """A fault of one kind in a case; `check` names the comparison that must be the first to fail."""

    kind: str
    fault: Fault
    case: Case
    check: str


@dataclass(frozen=True)
class Plan:
    """What is planted, and the kinds of which nothing is, each with the reason."""

    plants: tuple[Plant, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


NOTHING = Plan()

PLANTED: dict[str, tuple[tuple[str, str], ...]] = {
    "attention scale": (("A16", "attention to all keys"),),
    "rope": (("A04", "attention to all keys"),),
    "key choice": (("S01", "sparse attention"),),
    "router bias": (("R21", "bias"),),
    "expert order": (("X09", "experts"),),
    "lost reduction": (("T13", "tp"),),
    "lost gradient reduction": (("T04", "sequence parallelism"), ("G11", "dp"), ("C08", "cp")),
    "small error": (("N07", ""),),
    "lost moments": (("L07", "resume"),),
    "decode position": (("I01", "inference"),),
    "stale weights": (("I05", STATIC),),
    "shared block": (("I11", DYNAMIC),),
}
"""What is planted of each kind, in this order: the id of a fault, and what a layout or a model must have for it to exist.

Needs are `attention to all keys`, `sparse attention`, `experts`, `bias` (of routers), `tp` (ranks that share a sum),
`sequence parallelism`, `dp`, `cp`, and `resume`, a run that goes on from a checkpoint. Of cases that infer they are
`inference`, or the context's word. Of several faults of a kind, the first that exists in the layouts of a run is planted.
"""
_OF_INFERENCE = ("inference", STATIC, DYNAMIC)
RESUMED = "step-resume-step"
"""The life of what is planted in a run that resumes."""

_WIDTHS: dict[str, Callable[[Layout], int]] = {
    "tp": lambda layout: layout.tp,
    "sequence parallelism": lambda layout: layout.tp if layout.uses_sequence_parallel else 1,
    "dp": lambda layout: layout.data_parallel,
    "cp": lambda layout: layout.cp,
}
"""By what a fault needs, over how many ranks a layout has it."""
_MISSING = {
    "tp": "no layout of this run has tensor-parallel ranks",
    "sequence parallelism": "no layout of this run has ranks that sum gradients",
    "dp": "no layout of this run has ranks that sum gradients",
    "cp": "no layout of this run has ranks that sum gradients",
    "attention to all keys": "the model has sparse attention, which computes it elsewhere",
    "experts": "the model has no experts",
    "bias": "the model has no routers with a bias",
}


def plan_of(settings: Settings) -> Plan:
    """What a command plants. Raises UsageError where its checkout of megatron-core is none: known bugs go by the version."""
    if not settings.self_test:
        return NOTHING
    checkout.choose(settings.megatron_path)
    return plan(settings.cases)


def plan(cases: Sequence[Case]) -> Plan:
    """One fault of each kind, where the layouts and the model of these cases have what it needs."""
    plants: list[Plant] = []
    left_out: list[tuple[str, str]] = []
    for kind, faults in PLANTED.items():
        concerned = _concerned(faults[0][1], cases)
        if not concerned:
            continue
        tried = [_planted(kind, fault, needs, concerned) for fault, needs in faults]
        found = next((one for one in tried if isinstance(one, Plant)), None)
        if found is not None:
            plants.append(found)
        else:
            left_out.append((kind, str(tried[0])))
    return Plan(tuple(plants), tuple(left_out))


def _concerned(needs: str, cases: Sequence[Case]) -> list[Case]:
    """The cases that a kind is about, by what its first fault needs: those that train, those that infer, or none."""
    if needs == "sparse attention" and not cases[0].model.sparse:
        return []
    if needs in _OF_INFERENCE:
        return [case for case in cases if infers(case) and needs in ("inference", case.training.inference)]
    training = [case for case in cases if not infers(case)]
    resumes = any(event.kind == life.RESUME for case in training for event in life.parse(case.training.life))
    return training if resumes or needs != "resume" else []


def _planted(kind: str, name: str, needs: str, cases: Sequence[Case]) -> Plant | str:
    """The fault in a case of its own, or why it is not planted."""
    layout = _layout(needs, (case.layout for case in cases))
    model = cases[0].model
    if needs in ("experts", "bias") and not model.moe_layers:
        return _MISSING["experts"]
    if layout is None or (needs == "bias" and not model.sigmoid) or (needs == "attention to all keys" and model.sparse):
        return _MISSING[needs]
    # Rows of the vocabulary that are padded in one layout are in all that are planted in: another width may need it.
    multiple = max(case.training.vocab_multiple for case in cases)
    first = replace(cases[0], training=replace(cases[0].training, vocab_multiple=multiple))
    fault, small = catalogue.find(name), smaller(first, layout)
    case = mended(_resumed(small) if needs == "resume" else small)
    return Plant(kind, fault, case, fault.first_in(case))


def _resumed(case: Case) -> Case:
    """The case with two steps, and a checkpoint between them. Large steps leave nothing to decide below fp64."""
    steps = replace(case.training, life=RESUMED, steps=life.steps(RESUMED))
    return replace(case, training=steps if case.precision == "fp64" else steps.with_settings({"optimizer.lr": 1e-3}))


def _layout(needs: str, layouts: Iterable[Layout]) -> Layout | None:
    """The smallest layout that has it, after those of the run; one rank where nothing is needed of a layout."""
    if needs not in _WIDTHS:
        return Layout()
    widths = {(_WIDTHS[needs](layout), layout.sequence_parallel) for layout in layouts}
    width, sequence_parallel = min((found for found in widths if found[0] > 1), default=(1, True))
    if width == 1:
        return None
    if needs in ("dp", "cp"):
        return Layout(dp=width) if needs == "dp" else Layout(cp=width)
    return Layout(tp=width, sequence_parallel=sequence_parallel)


def smaller(case: Case, layout: Layout) -> Case:
    """The case in that layout, with the first layer of each kind, short sequences and no steps: the rest stays."""
    dense, experts = case.model.dense_layers, case.model.moe_layers
    kept = (dense[0], experts[0]) if dense and experts else (dense + experts)[:2]
    of_file = tuple(case.layers[layer] if case.layers else layer for layer in kept) if case.hf_model_path else ()
    model = replace(
        case.model,
        num_hidden_layers=len(kept),
        first_k_dense_replace=sum(layer in dense for layer in kept),
        num_nextn_predict_layers=0,
    )
    kept_of = case.training
    training = Training(experts=kept_of.experts, vocab_multiple=kept_of.vocab_multiple, inference=kept_of.inference)
    requests = kept_of.inference == DYNAMIC  # which need several blocks of the cache
    return replace(
        case,
        model=padded(replace(model, padded_vocab_size=None), layout, training) if training.vocab_multiple else model,
        layout=layout,
        layers=of_file,
        batch_size=case.batch_size if requests else 2 * layout.data_parallel,
        micro_batch_size=1,
        seq_length=case.seq_length if requests else math.lcm(16, layout.tp, 2 * layout.cp),
        training=training,
        isolated=False,
        candidate_checkpoint=None,
        data=None,
        data_digest="",
    )
