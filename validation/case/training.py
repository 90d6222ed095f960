"""How a step is made, beside the layout: what the loss is, how the optimizer holds its state, what is computed twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from validation.case import life as lives
from validation.case import settings
from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.settings import Given
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
    "data_shape": ("full", "documents", "packed", "packed-padded", "padded", "left-padded"),
    "padding_logits": ("counted", "masked"),
    "inference": ("none", "static", "dynamic"),
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
    "documents": ("data_shape", "documents"),
    "packed": ("data_shape", "packed"),
    "packed-padded": ("data_shape", "packed-padded"),
    "padded": ("data_shape", "padded"),
    "left-padded": ("data_shape", "left-padded"),
    "masked-logits": ("padding_logits", "masked"),
    "static": ("inference", "static"),
    "dynamic": ("inference", "dynamic"),
}
"""What may follow a layout, joined with +: `tp2+distributed+full`."""
_MTP = re.compile(r"mtp([1-9][0-9]{0,8})?")
_VOCAB = re.compile(r"vocab([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Adam:
    """What AdamW and its surroundings are given, from the settings of the optimizer.

    `clip_norm` is the limit of the norm of all gradients, `bias_update_rate` what the expert bias moves by in a step. Norm
    weights, which have one dimension, do not decay: megatron-core's own rule.
    """

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float
    bias_update_rate: float


STREAM = "stream"
"""The word for layer by layer."""
_STAGES = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})+")


def option(name: str) -> str:
    """An option of OPTIONS on the command line: `--mtp-loss` of `mtp_loss`."""
    return "--" + name.replace("_", "-")


def mtp_layers(word: str, usual: int = 1) -> int | None:
    """How many layers of multi-token prediction a word asks for: `mtp` the `usual` number, `mtp2` two; None for another word.

    It follows the layout as the others do, and changes the model, not the step.
    """
    found = _MTP.fullmatch(word)
    return int(found[1] or usual) if found else None


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
    (validation.case.mtp). `vocab_multiple` is what the rows of the vocabulary are padded to a multiple of, times tp
    (validation.case.vocabulary); 0 for no padding. `data_shape` is what the sequences of a batch hold (validation.case.data).
    `padding_logits` says whether the logits of the vocabulary's padding count in the loss (validation.case.vocabulary).
    `inference` is the context with which sequences are prefilled and decoded, if nothing is trained
    (validation.case.inference).
    With `stream` both models are computed layer by layer, and no more than one layer of either is ever held. `settings` are
    fields of upstream's configuration that are set beside all this, sorted (validation.case.settings).
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
    data_shape: str = "full"
    padding_logits: str = "counted"
    inference: str = "none"
    stages: tuple[int, ...] = ()
    stream: bool = False
    settings: Given = ()
    life: str = ""
    vocab_multiple: int = 0

    @property
    def options(self) -> dict[str, str]:
        """The options that are one word of several, by name."""
        return {name: getattr(self, name) for name in OPTIONS}

    def effective(self, section: str) -> dict[str, Value]:
        """Every field of a section of upstream's configuration that Plumbline sets whatever the model and the layout."""
        return settings.effective(self.options, self.settings, section)

    def with_settings(self, given: Mapping[str, Value]) -> Training:
        """This with further settings, those that an option stands for as that option. Raises UsageError."""
        options, left = settings.folded(self.options, {**dict(self.settings), **given})
        changed: dict[str, Any] = {**options, "settings": left}
        return replace(self, **changed)

    @property
    def adam(self) -> Adam:
        """The numbers of an optimizer step."""
        optimizer, model = self.effective("optimizer"), self.effective("model")
        return Adam(
            learning_rate=_number(optimizer["lr"]),
            beta1=_number(optimizer["adam_beta1"]),
            beta2=_number(optimizer["adam_beta2"]),
            epsilon=_number(optimizer["adam_eps"]),
            weight_decay=_number(self.effective("scheduler").get("end_wd", optimizer["weight_decay"])),
            clip_norm=_number(optimizer["clip_grad"]),
            bias_update_rate=_number(model["moe_router_bias_update_rate"]),
        )

    @property
    def balance_coefficient(self) -> float:
        """What the balancing loss is multiplied with."""
        return _number(self.effective("model")["moe_z_loss_coeff" if self.balancing == "z_loss" else "moe_aux_loss_coeff"])

    @property
    def z_coefficient(self) -> float:
        """What the routers' z-loss is multiplied with beside another balancing loss; 0 if there is none beside it."""
        beside = self.balancing not in ("none", "z_loss")
        return _number(self.effective("model")["moe_z_loss_coeff"] or 0.0) if beside else 0.0

    @property
    def mtp_scale(self) -> float:
        """What the mean of the MTP layers' losses is multiplied with."""
        return _number(self.effective("model")["mtp_loss_scaling_factor"])

    @property
    def label(self) -> tuple[str, ...]:
        """The words in a case's name: `words`, with settings that take more room than a name has as a digest."""
        return self._plain_words + settings.label(self.settings)

    @property
    def words(self) -> tuple[str, ...]:
        """What is unlike the default, as it follows a layout's name."""
        return self._plain_words + settings.words(self.settings)

    @property
    def _plain_words(self) -> tuple[str, ...]:
        said = tuple(word for word, (name, value) in WORDS.items() if getattr(self, name) == value)
        stages = ("-".join(map(str, self.stages)),) if self.stages else ()
        said += (f"vocab{self.vocab_multiple}",) if self.vocab_multiple else ()
        return said + stages + ((STREAM,) if self.stream else ()) + ((self.life,) if self.life else ())

    def with_word(self, word: str) -> Training:
        """This with one more word: one of WORDS, stages as `1-3`, or a setting. Raises UsageError."""
        if _STAGES.fullmatch(word):
            return replace(self, stages=tuple(int(part) for part in word.split("-")))
        if vocab := _VOCAB.fullmatch(word):
            return replace(self, vocab_multiple=int(vocab[1]))
        if word.startswith("vocab") and not word.startswith("vocab_"):
            raise UsageError(f"+{shown(word)}: give a whole number from 1 to 999999 behind vocab, such as +vocab128")
        if word == STREAM:
            return replace(self, stream=True)
        if lives.is_life(word):
            return replace(self, life=lives.written(lives.parse(word)), steps=lives.steps(word))
        if word not in WORDS and (setting := settings.of_word(word)):
            return self.with_settings(dict([setting]))
        if word not in WORDS:
            if near := settings.near(word):
                raise UsageError(f"+{shown(word)} is unknown; the nearest that there is: +{' and +'.join(near)}")
            raise UsageError(
                f"+{shown(word)} is unknown; after a layout may stand +{', +'.join((*WORDS, STREAM))}, "
                "+mtp for a layer of multi-token prediction, +vocab128 for a padded vocabulary, the layers of each pipeline "
                "stage as +1-3, a life such as +step-evaluate-step, or a field of megatron-core's configuration such as "
                "+moe_permute_fusion"
            )
        name, value = WORDS[word]
        changed: dict[str, Any] = {name: value}
        return replace(self, **changed)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Training:
        """What `dataclasses.asdict` made of one, perhaps through JSON."""
        given = settings.from_lists(data.get("settings", ()))
        return cls(**{**data, "stages": tuple(data["stages"]), "settings": given})


def _number(value: Value) -> float:
    """A setting that is a number. Its type was checked when it was given."""
    return float(value)  # type: ignore[arg-type]
