"""How the learning rate and the weight decay go from step to step: the numbers, from the settings. No torch.

They are arguments of megatron-core's OptimizerParamScheduler. Lengths count optimizer steps: Plumbline advances the scheduler
by 1 after each step. The formulas stand in validation.reference.schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from validation.case.training import Training

CONSTANT = "constant"
STYLES = (CONSTANT, "linear", "cosine", "inverse-square-root", "WSD")
"""How the learning rate may fall."""
WSD_STYLES = ("linear", "cosine", "exponential", "minus_sqrt")
"""How it may fall in the last steps of WSD."""
DECAY_STYLES = (CONSTANT, "linear", "cosine")
"""How the weight decay may grow."""
DECOUPLED = ("model.embed_tokens.weight", "lm_head.weight")
"""The parameters whose rate is optimizer.decoupled_lr, if it is given: embedding and output head."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate's and the weight decay's way.

    The rate rises from `init_lr` over `warmup` steps, then falls from `max_lr` to `min_lr` until step `decay_steps`, as
    `style` says; `decoupled` are the largest and the smallest rate of DECOUPLED, None if they have no rates of their own.
    Of WSD only the last `wsd_steps` fall, as `wsd_style` says. Weight decay grows from `start_wd` to `end_wd` over `wd_steps`.
    """

    init_lr: float
    max_lr: float
    min_lr: float
    decoupled: tuple[float, float] | None
    warmup: int
    decay_steps: int
    style: str
    wsd_steps: int | None
    wsd_style: str | None
    start_wd: float
    end_wd: float
    wd_steps: int
    wd_style: str

    @classmethod
    def of(cls, training: Training) -> Self:
        """That of a case's settings. What nobody sets is upstream's own: no warm-up, a first rate and a smallest rate of 0."""
        optimizer, given = training.effective("optimizer"), training.effective("scheduler")
        largest, smallest = optimizer["lr"], optimizer["min_lr"]
        own = optimizer.get("decoupled_lr")
        least = optimizer.get("decoupled_min_lr")
        warmup: Any = given.get("lr_warmup_steps", 0)
        values: Mapping[str, Any] = {
            "init_lr": given.get("init_lr", 0.0),
            "max_lr": largest,
            "min_lr": smallest,
            "decoupled": None if own is None else (own, smallest if least is None else least),
            "warmup": warmup,
            "decay_steps": given.get("lr_decay_steps", max(training.steps, warmup + 1)),
            "style": given.get("lr_decay_style", CONSTANT),
            "wsd_steps": given.get("wsd_decay_steps"),
            "wsd_style": given.get("lr_wsd_decay_style"),
            "start_wd": given.get("start_wd", optimizer["weight_decay"]),
            "end_wd": given.get("end_wd", optimizer["weight_decay"]),
            "wd_steps": given.get("wd_incr_steps", max(training.steps, 1)),
            "wd_style": given.get("wd_incr_style", CONSTANT),
        }
        return cls(**values)

    @property
    def arguments(self) -> dict[str, Any]:
        """What OptimizerParamScheduler is given, but for what a case sets and no number follows from."""
        return {
            "init_lr": self.init_lr,
            "max_lr": self.max_lr,
            "min_lr": self.min_lr,
            "lr_warmup_steps": self.warmup,
            "lr_decay_steps": self.decay_steps,
            "lr_decay_style": self.style,
            "wsd_decay_steps": self.wsd_steps,
            "lr_wsd_decay_style": self.wsd_style,
            "start_wd": self.start_wd,
            "end_wd": self.end_wd,
            "wd_incr_steps": self.wd_steps,
            "wd_incr_style": self.wd_style,
        }

    @property
    def is_steady(self) -> bool:
        """Whether every parameter has the same rate in all steps, and the same weight decay if it decays at all.

        Then the rates are no checks of their own.
        """
        return not self.warmup and self.style == self.wd_style == CONSTANT and self.decoupled is None
