"""Which optimizer takes a case's steps, and what it keeps of each parameter. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from validation.case.case import Case
from validation.case.suggestions import join
from validation.case.training import Training

ADAM, SGD = "adam", "sgd"
USUAL_MOMENTUM = 0.9
"""megatron-core's own `sgd_momentum`."""
FIRST, SECOND, BUFFER = "exp_avg", "exp_avg_sq", "momentum_buffer"
_OF_ADAM: Mapping[str, str] = MappingProxyType({FIRST: "First Moment", SECOND: "Second Moment"})
_EMERGING = ("muon", "lion", "soap")
"""What the names of those in the package emerging-optimizers have in them; dist_muon is Muon with layers spread over ranks."""
_OF_SGD: Mapping[str, str] = MappingProxyType({BUFFER: "Momentum"})


@dataclass(frozen=True)
class Rule:
    """Which optimizer it is: `kind` is ADAM or SGD.

    Adam's weight decay is `decoupled` (AdamW) or added to the gradients. SGD's is always added to them. `momentum` is SGD's.
    """

    kind: str = ADAM
    decoupled: bool = True
    momentum: float = USUAL_MOMENTUM

    @classmethod
    def of(cls, training: Training) -> Rule:
        """That of a case's settings."""
        given: Mapping[str, Any] = training.effective("optimizer")
        return cls(
            str(given["optimizer"]),
            bool(given.get("decoupled_weight_decay", True)),
            float(given.get("sgd_momentum", USUAL_MOMENTUM)),
        )

    @property
    def moments(self) -> Mapping[str, str]:
        """What it keeps of a parameter, by torch's names, with the words of a check's title."""
        if self.kind == ADAM:
            return _OF_ADAM
        return _OF_SGD if self.momentum else {}


def counts_zeros(training: Training) -> bool:
    """Whether the zeros in the gradients of a step are counted and compared."""
    return bool(training.effective("optimizer").get("log_num_zeros_in_grad"))


def instances(training: Training) -> int:
    """How many groups of data-parallel ranks have the whole state of a distributed optimizer each."""
    given: Any = training.effective("ddp").get("num_distributed_optimizer_instances", 1)
    return int(given)


def of_another_package(kind: str) -> str | None:
    """Why an optimizer that Megatron-Core takes from emerging-optimizers cannot be compared; None for another one.

    Tried with Python 3.12 (docs/training.md): 0.17 and later step with 0.3.0, in float32 alone.
    """
    if not any(word in kind.lower() for word in _EMERGING):
        return None
    return (
        f"optimizer.optimizer={kind} cannot be compared: the reference has no formula for it, and Megatron-Core takes it from "
        "the package emerging-optimizers; PyPI has its version 0.3.0 alone, which needs Python 3.12 and Megatron-Core 0.17, "
        f"and steps float32 alone; {ADAM} and {SGD} can be compared"
    )


def offload_takes_the_aware_way(case: Case) -> str | None:
    """The hybrid optimizer reads the gradients that are made for a precision-aware one, which is distributed.

    Float16Optimizer puts masters into its groups, which it does not know: KeyError in the first step, measured on an H200.
    Megatron-LM's parser asserts it; megatron-core's configuration does not.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/training/arguments.py
    """
    given: Mapping[str, Any] = case.training.effective("optimizer")
    if not given.get("optimizer_cpu_offload") or not case.has_masters:
        return None
    if case.training.optimizer == "distributed" and given.get("use_precision_aware_optimizer"):
        return None
    return (
        f"optimizer.optimizer_cpu_offload=true in {case.precision} steps what a precision-aware optimizer has; add "
        "+distributed+optimizer.use_precision_aware_optimizer, or take --precision fp32"
    )


def moments_are_no_bytes(case: Case) -> str | None:
    """The reference's moments are float32; eight bits leave too little of them to decide anything."""
    given: Mapping[str, Any] = case.training.effective("optimizer")
    for name in (f"{FIRST}_dtype", f"{SECOND}_dtype"):
        if str(given.get(name)) in ("uint8", "fp8", "torch.uint8"):
            return f"optimizer.{name}={given[name]} cannot be compared: the reference has moments in float32; float32 works"
    return None


def instances_share_the_ranks(case: Case) -> str | None:
    """megatron-core asserts it while it makes groups: of all data-parallel ranks, and of those of experts."""
    count, layout = instances(case.training), case.layout
    if count == 1:
        return None
    said = f"ddp.num_distributed_optimizer_instances={count}"
    if count < 1:
        return f"{said}: give 1 or more"
    if case.training.optimizer != "distributed":
        return f"{said} is of the distributed optimizer; add +distributed, or leave it out"
    dense, experts = layout.data_parallel * layout.cp, layout.ranks // (layout.pp * layout.ep * layout.expert_tp)
    for what, ranks in (("data-parallel ranks", dense), ("ranks that hold the same experts", experts)):
        if ranks % count:
            fitting = [str(number) for number in range(1, ranks + 1) if not ranks % number]
            return f"{said} does not divide the {ranks} {what}; {join(fitting, 'or')} works"
    return None


def sgd_is_plain(case: Case) -> str | None:
    """megatron-core's distributed optimizer asserts Adam, and cannot make the state of SGD that a checkpoint is loaded into.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/optimizer/distrib_optimizer.py
    """
    if Rule.of(case.training).kind != SGD or not case.training.steps:
        return None
    if case.training.optimizer == "distributed":
        return "optimizer.optimizer=sgd cannot be distributed: Megatron-Core has Adam alone for that; leave out +distributed"
    if "resume" in case.training.life.split("-"):
        return (
            f"+{case.training.life}: Megatron-Core cannot load a checkpoint of SGD, because it makes no state to load it into; "
            "leave out resume, or take optimizer.optimizer=adam"
        )
    return None


def momentum_is_a_share(case: Case) -> str | None:
    """PyTorch refuses a momentum below 0; from 1 on it grows without end."""
    momentum = Rule.of(case.training).momentum
    if 0 <= momentum < 1:
        return None
    return f"optimizer.sgd_momentum is {momentum:g}; give a number from 0 to below 1, such as {USUAL_MOMENTUM:g}"


def adam_divides(case: Case) -> str | None:
    """PyTorch refuses the same: a share of 1 or more never forgets, and what it divides by is then 0."""
    given: Mapping[str, Any] = case.training.effective("optimizer")
    if Rule.of(case.training).kind != ADAM:
        return None
    for name, usual in (("adam_beta1", 0.9), ("adam_beta2", 0.95)):
        if not 0 <= given.get(name, usual) < 1:
            return f"optimizer.{name} is {given[name]:g}; give a number from 0 to below 1, such as {usual:g}"
    if not given.get("adam_eps", 1) > 0:
        return (
            f"optimizer.adam_eps is {given['adam_eps']:g}, and an element whose gradients are all 0 is divided by it; "
            "give a number above 0, such as 1e-8"
        )
    return None


def zeros_are_of_the_gradients(case: Case) -> str | None:
    """In bf16 rounding makes zeros, by the order of sums: measured up to 4 % more than the HuggingFace model has."""
    if not case.has_masters or not counts_zeros(case.training):
        return None
    return (
        f"optimizer.log_num_zeros_in_grad=true cannot be compared in {case.precision}, in which sums of gradients cancel out "
        "to zero by chance; --precision fp64 or fp32 works, or leave it out"
    )


RULES = (
    moments_are_no_bytes,
    offload_takes_the_aware_way,
    instances_share_the_ranks,
    momentum_is_a_share,
    adam_divides,
    sgd_is_plain,
    zeros_are_of_the_gradients,
)
