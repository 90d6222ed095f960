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


def zeros_are_of_the_gradients(case: Case) -> str | None:
    """In bf16 rounding makes zeros, by the order of sums: measured up to 4 % more than the HuggingFace model has."""
    if not case.has_masters or not counts_zeros(case.training):
        return None
    return (
        f"optimizer.log_num_zeros_in_grad=true cannot be compared in {case.precision}, in which sums of gradients cancel out "
        "to zero by chance; --precision fp64 or fp32 works, or leave it out"
    )


RULES = (moments_are_no_bytes, instances_share_the_ranks, momentum_is_a_share, sgd_is_plain, zeros_are_of_the_gradients)
