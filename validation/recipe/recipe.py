"""A recipe: what a training run is made with, each setting with the place that it came from."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from validation.case.annotation import Value
from validation.case.layout import Layout


class Source(enum.Enum):
    """How a setting came to its value."""

    GIVEN = "given"
    FOLLOWS = "follows"
    DEFAULT = "default"


@dataclass(frozen=True)
class Origin:
    """Where a value came from: `text` is the flag or the key as it is written, `place` the file and line.

    Of a value that follows from others `text` says from which, and `place` the function of Megatron-LM that makes it so.
    Of a default `place` names the release of the parser.
    """

    source: Source
    text: str
    place: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.place})" if self.place else self.text


@dataclass(frozen=True)
class Setting:
    """One field of upstream's configurations, by its own name: `model.moe_permute_fusion`."""

    name: str
    value: Value
    origin: Origin


@dataclass(frozen=True)
class Flag:
    """A flag as it is written, with the words that follow it; `reason` says why it stands where it does."""

    text: str
    place: str
    reason: str = ""


@dataclass(frozen=True)
class Batch:
    """Sequences of a micro-batch and of all ranks together, and tokens of a sequence; None where the recipe does not say."""

    micro: int | None = None
    overall: int | None = None
    sequence: int | None = None


@dataclass(frozen=True)
class Recipe:
    """What a file or a script trains.

    `settings` are sorted by name: fields of upstream's four configurations that are given, that follow from what is given,
    and defaults of Megatron-LM's parser that differ from the dataclass's own. `model` has numbers by the names of
    `validation.case.model.Model`. `layout.dp` is None where the number of ranks is not known. `loss` is `mean` or `token`,
    and `loss_from` says whose function it is; with `own_tokens` a context-parallel rank divides a mean by the number of its own
    tokens. `spec` is the function that makes layers of the recipe's own, as `package.module:function`. `unknown` are flags that
    the parser does not have, `beside` those that it has and that no field of the four configurations takes, `idle` those that
    change no number. `beyond` are settings that no field has and that change numbers all the same. `doubts` are whole
    sentences on what could not be told, `unlike` on what nothing can stand for: no DeepSeek-V3, or values that Megatron-LM
    refuses together, and `uneven` on a batch that its ranks cannot share.
    """

    source: str
    kind: str
    defaults: str
    settings: tuple[Setting, ...] = ()
    model: Mapping[str, Value] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    world: int | None = None
    batch: Batch = field(default_factory=Batch)
    precision: str = "fp32"
    loss: str = "mean"
    loss_from: str = ""
    own_tokens: bool = False
    implementation: str = "te"
    spec: str = ""
    program: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    beside: tuple[Flag, ...] = ()
    idle: tuple[Flag, ...] = ()
    unknown: tuple[Flag, ...] = ()
    beyond: tuple[Setting, ...] = ()
    doubts: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    uneven: str = ""

    @property
    def values(self) -> dict[str, Value]:
        """The settings by name."""
        return {setting.name: setting.value for setting in self.settings}

    def of(self, source: Source) -> tuple[Setting, ...]:
        """The settings that came to their values in one way."""
        return tuple(setting for setting in self.settings if setting.origin.source is source)
