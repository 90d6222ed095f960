"""The catalogue behind known upstream bugs: what is caught without a bug must be caught beside it.

Each fault is put into its case once more with a bug active, in the layouts that have both. The checks are judged as in any run:
what the bug excuses by a second run with the same fault, from which the bug has been taken out. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from validation.case import life, preflight
from validation.case.case import Case
from validation.case.data import DOCUMENTS, FULL, PADDED
from validation.case.errors import UsageError
from validation.case.inference import DYNAMIC, STATIC
from validation.checks.order import RUN, place
from validation.faults.fault import Fault
from validation.run.known import known_bugs, refusal
from validation.scorecard.run import ordered
from validation.scorecard.trial import Trial

_OVERFLOW = "step-overflow-step"


def _experts_elsewhere(case: Case) -> Case | None:
    """An etp that is not tp, while experts are not spread."""
    layout = case.layout
    if layout.ep > 1 or layout.etp is not None or not case.model.moe_layers:
        return None
    return replace(case, layout=replace(layout, etp=1 if layout.tp > 1 else 2))


def _experts_gathered(case: Case) -> Case | None:
    """An etp above tp, with parameters that are gathered while the model computes."""
    layout = case.layout
    if layout.ep > 1 or layout.etp is not None or layout.tp > 1 or not case.model.moe_layers:
        return None
    overlapping = {"ddp.overlap_grad_reduce": True, "ddp.overlap_param_gather": True, "ddp.use_distributed_optimizer": True}
    return replace(case, layout=replace(layout, etp=2), training=case.training.with_settings(overlapping))


def _stock(case: Case) -> Case | None:
    """megatron-core's own local spec."""
    return replace(case, implementation="local-stock") if case.layout.tp > 1 else None


def _tied(case: Case) -> Case | None:
    """Tied embeddings with an MTP layer on another stage."""
    if case.layout.pp == 1:
        return None
    return replace(case, model=replace(case.model, tie_word_embeddings=True, num_nextn_predict_layers=1))


def _dense_whole_sequences(case: Case) -> Case | None:
    """Without sequence parallelism, which a model with experts cannot have."""
    if case.layout.tp == 1 or not case.layout.uses_sequence_parallel:
        return None
    model = replace(case.model, first_k_dense_replace=case.model.num_hidden_layers)
    return replace(case, model=model, layout=replace(case.layout, sequence_parallel=False))


def _balanced_per_token(case: Case) -> Case | None:
    """A balancing loss with a loss per token."""
    if case.training.balancing != "none" or case.training.loss != "token":
        return None
    return replace(case, training=replace(case.training, balancing="seq_aux_loss"))


def _wide_epsilon(case: Case) -> Case | None:
    """Moonlight's epsilon."""
    return replace(case, model=replace(case.model, rms_norm_eps=1e-5))


def _mtp_means(case: Case) -> Case | None:
    """An MTP layer and a mean loss, where context-parallel ranks have targets of their own."""
    if case.layout.cp == 1:
        return None
    model = replace(case.model, num_nextn_predict_layers=max(1, case.model.num_nextn_predict_layers))
    return replace(case, model=model, training=replace(case.training, loss="mean"))


def _overflowing(case: Case) -> Case | None:
    """Experts that are spread, in fp16, and a step whose gradients hold an infinity."""
    if case.layout.ep == 1 or not case.training.steps or case.training.life:
        return None
    training = replace(case.training, life=_OVERFLOW, steps=life.steps(_OVERFLOW))
    return replace(case, precision="fp16", training=training)


def _decoupled_rate(case: Case) -> Case | None:
    """An MTP layer on another stage, and a rate of its own for embedding and output head."""
    if case.layout.pp == 1 or not case.training.steps:
        return None
    model = replace(case.model, num_nextn_predict_layers=max(1, case.model.num_nextn_predict_layers))
    return replace(case, model=model, training=case.training.with_settings({"optimizer.decoupled_lr": 0.02}))


def _mtp_of_documents(case: Case) -> Case | None:
    """An MTP layer and several documents a sequence."""
    if case.training.data_shape != FULL:
        return None
    model = replace(case.model, num_nextn_predict_layers=max(1, case.model.num_nextn_predict_layers))
    return replace(case, model=model, training=replace(case.training, data_shape=DOCUMENTS))


def _mtp_of_padding(case: Case) -> Case | None:
    """An MTP layer and padded sequences."""
    if case.training.data_shape != FULL:
        return None
    model = replace(case.model, num_nextn_predict_layers=max(1, case.model.num_nextn_predict_layers))
    return replace(case, model=model, training=replace(case.training, data_shape=PADDED))


def _set(**given: bool | float) -> Callable[[Case], Case | None]:
    """Fields of the model's configuration."""
    named = {f"model.{name}": value for name, value in given.items()}
    return lambda case: replace(case, training=case.training.with_settings(named))


def _filled_up(case: Case) -> Case | None:
    """Experts with room for every token, filled up to it."""
    room = case.model.n_routed_experts / case.model.num_experts_per_tok
    return _set(moe_expert_capacity_factor=room, moe_pad_expert_input_to_capacity=True)(case)


def _requests(case: Case) -> Case | None:
    """Requests over cached latents, instead of a static context."""
    if case.training.inference == DYNAMIC:
        return case
    if case.training.inference != STATIC or case.layout.ranks > 1:
        return None
    return replace(case, training=replace(case.training, inference=DYNAMIC))


ACTIVATED: dict[str, Callable[[Case], Case | None]] = {
    "latent-norm-epsilon": _wide_epsilon,
    "balancing-losses-per-token": _balanced_per_token,
    "expert-gradients-not-reduced": _experts_elsewhere,
    "shared-rope-key-not-reduced": _stock,
    "latents-without-sequence-parallelism": _dense_whole_sequences,
    "tied-output-weight-unused": _tied,
    "mtp-mean-counted-per-rank": _mtp_means,
    "loads-counted-after-capacity": _filled_up,
    "outputs-freed-while-sent": _set(deallocate_pipeline_outputs=True),
    "mtp-embedding-at-the-common-rate": _decoupled_rate,
    "loss-scales-of-experts-drift": _overflowing,
    "expert-weights-gathered-from-wrong-ranks": _experts_gathered,
    "mtp-takes-the-next-document": _mtp_of_documents,
    "mtp-layers-count-padding": _mtp_of_padding,
    "stale-absorbed-weights": _requests,
    "fused-cross-entropy-in-bf16": _set(cross_entropy_loss_fusion=True),
}
"""How the case of a fault becomes one that has the bug, too; None where it cannot. Bugs that 0.16 has mended have no entry."""
DUE: dict[str, Callable[[Case], Case | None]] = {}
"""The same of bugs that have not been measured beside the catalogue yet: `all` leaves them out; --behind takes their names."""


def behind(faults: Iterable[Fault], bugs: Sequence[str]) -> list[Trial]:
    """Every fault behind each of these bugs, where a case can have both and the check that must see the fault exists there."""
    listed = list(faults)
    return [trial for bug in bugs for trial in ordered(list(_behind(listed, bug)))]


def _behind(faults: Iterable[Fault], bug: str) -> Iterator[Trial]:
    for fault in faults:
        for layout in fault.layouts:
            case = (ACTIVATED | DUE)[bug](fault.case(layout))
            if case is not None and _possible(case, fault, bug):
                yield Trial(fault, layout, case, bug)


def _possible(case: Case, fault: Fault, bug: str) -> bool:
    try:
        preflight.check(case, max_ranks=8, gpus=0, memory=None)
        wanted = fault.first_in(case)
    except UsageError:
        return False
    return refusal(case) is None and place(case, wanted) != RUN and bug in {one.id for one in known_bugs(case)}
