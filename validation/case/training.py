"""How a step is made, beside the layout: what the loss is, how the optimizer holds its state, what is computed twice."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from validation.case.errors import UsageError
from validation.case.strangers import shown

OPTIONS = {
    "optimizer": ("plain", "distributed"),
    "loss": ("token", "mean"),
    "balancing": ("none", "seq_aux_loss", "aux_loss", "z_loss"),
    "recompute": ("none", "full", "selective"),
    "dispatcher": ("alltoall", "allgather"),
    "experts": ("default", "sequential", "grouped"),
    "fp8": ("none", "delayed", "blockwise"),
    "mtp_loss": ("version", "report", "targets"),
}
"""The options that are one word of several, the default first."""
WORDS = {
    "distributed": ("optimizer", "distributed"),
    "mean": ("loss", "mean"),
    "seqaux": ("balancing", "seq_aux_loss"),
    "aux": ("balancing", "aux_loss"),
    "zloss": ("balancing", "z_loss"),
    "full": ("recompute", "full"),
    "selective": ("recompute", "selective"),
    "allgather": ("dispatcher", "allgather"),
    "sequential": ("experts", "sequential"),
    "grouped": ("experts", "grouped"),
    "fp8-delayed": ("fp8", "delayed"),
    "fp8-blockwise": ("fp8", "blockwise"),
    "mtp-report": ("mtp_loss", "report"),
    "mtp-targets": ("mtp_loss", "targets"),
}
"""What may follow a layout, joined with +: `tp2+distributed+full`."""
_MTP = re.compile(r"mtp([1-9][0-9]{0,8})?")


@dataclass(frozen=True)
class Adam:
    """AdamW as DeepSeek-V3 is trained with it (report, section 4.2), the learning rate aside.

    The rate is large, so that a wrong update stands out of the parameter; `clip_norm` is small, so that clipping is always
    active; `bias_update_rate` is what the expert bias moves by in a step, a power of two since the bias is float32 in every
    precision. Norm weights, which have one dimension, do not decay: megatron-core's own rule.
    """

    learning_rate: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 0.05
    bias_update_rate: float = 2**-7


ADAM = Adam()
BALANCE_COEFFICIENT = 0.1
"""What a balancing loss is multiplied with: a thousand times DeepSeek-V3's, so that a wrong one stands out of the gradient."""
STREAM = "stream"
"""The word for layer by layer."""
_STAGES = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})+")


def option(name: str) -> str:
    """An option of OPTIONS on the command line: `--mtp-loss` of `mtp_loss`."""
    return "--" + name.replace("_", "-")


def mtp_layers(word: str) -> int | None:
    """How many layers of multi-token prediction a word asks for: `mtp` one, `mtp2` two; None where it is another word.

    It follows the layout as the others do, and changes the model, not the step.
    """
    found = _MTP.fullmatch(word)
    return int(found[1] or 1) if found else None


def mtp_words(layers: int) -> tuple[str, ...]:
    """The word that `mtp_layers` reads as `layers`; none for 0."""
    return (f"mtp{layers if layers > 1 else ''}",) if layers else ()


@dataclass(frozen=True)
class Training:
    """The options of a step.

    `steps` counts optimizer steps; 0 stops after the backward pass. `loss` is `token` (the sum over all tokens divided by
    their number, megatron-core's calculate_per_token_loss) or `mean` (each micro-batch's own mean, averaged). `stages` are
    the layers of each pipeline stage where they are not even, in the order of the model. `fp8` is how Transformer Engine
    scales what its products take in eight bits. `mtp_loss` is what the reference divides the loss of an MTP layer by
    (validation.case.mtp). With `stream` both models are computed layer by layer, and no more than one
    layer of either is ever held.
    """

    steps: int = 0
    optimizer: str = "plain"
    loss: str = "token"
    balancing: str = "none"
    recompute: str = "none"
    dispatcher: str = "alltoall"
    experts: str = "default"
    fp8: str = "none"
    mtp_loss: str = "version"
    stages: tuple[int, ...] = ()
    stream: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """What is unlike the default, as it follows a layout's name."""
        said = tuple(word for word, (name, value) in WORDS.items() if getattr(self, name) == value)
        stages = ("-".join(map(str, self.stages)),) if self.stages else ()
        return said + stages + ((STREAM,) if self.stream else ())

    def with_word(self, word: str) -> Training:
        """This with one more word: one of WORDS, or stages as `1-3`. Raises UsageError."""
        if _STAGES.fullmatch(word):
            return replace(self, stages=tuple(int(part) for part in word.split("-")))
        if word == STREAM:
            return replace(self, stream=True)
        if word not in WORDS:
            raise UsageError(
                f"+{shown(word)} is unknown; after a layout may stand +{', +'.join((*WORDS, STREAM))}, "
                "+mtp for a layer of multi-token prediction, or the layers of each pipeline stage as +1-3"
            )
        name, value = WORDS[word]
        changed: dict[str, Any] = {name: value}
        return replace(self, **changed)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Training:
        """What `dataclasses.asdict` made of one, perhaps through JSON."""
        return cls(**{**data, "stages": tuple(data["stages"])})
