"""What cases have in common and what tells them apart: their degrees, options, precision, implementation and transport."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from validation.case.arrangement import parse
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.training import Training, mtp_words

FEWER_BITS = "fewer bits"
"""Not a property of a case, but of an error: something computes in a shorter mantissa than it should."""
_PARALLELISM = {
    "tp": "tensor parallelism",
    "sp": "sequence parallelism",
    "nosp": "tensor parallelism",
    "pp": "pipeline parallelism",
    "vpp": "virtual pipeline",
    "uneven stages": "pipeline parallelism",
    "cp": "context parallelism",
    "ep": "expert parallelism",
    "etp": "expert-tensor parallelism",
    "ep or etp": "expert parallelism",
    "dp": "data parallelism",
    "dp or cp": "data parallelism",
    "ranks": "several ranks",
}
_SAID = {
    "sp": "tp and sequence parallelism",
    "nosp": "tp and no sequence parallelism",
    "ranks": "more than one rank",
    "below fp64": "precision below fp64",
    "below fp32": "precision below fp32",
    "isolated": "isolated modules",
    FEWER_BITS: "rounding to fewer bits",
}
_ONE_STEP = {"sp": 1, "nosp": 1, "dp or cp": 1, "ep or etp": 1, "ranks": 1}
_WIDER = {
    "sp": ("tp",),
    "nosp": ("tp",),
    "vpp": ("pp",),
    "uneven stages": ("pp",),
    "ep": ("ep or etp",),
    "etp": ("ep or etp",),
    "dp": ("dp or cp",),
    "cp": ("dp or cp",),
    "below fp32": ("below fp64",),
}
PRECISIONS = ("below fp64", "below fp32")
_LONGEST, _MOST_WORDS = 4_000, 60
"""Characters and words of a layout with its options, a recipe's settings among them; more come from a file that Plumbline did
not write."""


@dataclass(frozen=True)
class Trait:
    """A property that a case has or has not: `tp`, `+full`, `below fp64`. `value` is its degree, where it has one."""

    name: str
    value: int = 1

    @property
    def group(self) -> str:
        """The group of causes that it stands for."""
        if self.name in _PARALLELISM:
            return _PARALLELISM[self.name]
        if self.name in (*PRECISIONS, FEWER_BITS):
            return "precision"
        word, _, what = self.name.rpartition(" ")
        if what.startswith("+"):
            return f"option {what}"
        return word or self.name

    @property
    def said(self) -> str:
        """It behind `every layout with`."""
        return _SAID.get(self.name, self.name)

    @property
    def parallel(self) -> bool:
        """Whether it is a matter of how the model is spread over ranks."""
        return self.name in _PARALLELISM

    @property
    def spreads(self) -> bool:
        """Whether one rank alone, with which several are compared, goes without it: it has no stages, nor a part of a state."""
        return self.parallel or self.name == "+distributed"

    @property
    def far_fetched(self) -> int:
        """How many steps it is behind the plainest explanations of failures."""
        return 2 if self.name.startswith("without ") else _ONE_STEP.get(self.name, 0)


def implies(one: str, other: str) -> bool:
    """Whether no case has the trait `one` without `other`."""
    return other in _WIDER.get(one, ()) or (other == "ranks" and one in _PARALLELISM)


def traits(properties: Mapping[str, str]) -> dict[str, Trait] | None:
    """The traits of a testsuite's case, by name; None if its properties do not say which layout it is."""
    found = _arrangement(properties.get("arrangement") or properties.get("layout") or "")
    if found is None:
        return None
    layout, words = found
    every = [*_of_layout(layout), *map(_of_word, words), *_of_precision(properties.get("precision"))]
    every += [Trait(f"{name} {properties[name]}") for name in ("implementation", "transport", "preset") if name in properties]
    every += [Trait("isolated")] if properties.get("isolated") == "True" else []
    return {trait.name: trait for trait in every}


@cache
def _arrangement(text: str) -> tuple[Layout, tuple[str, ...]] | None:
    if len(text) > _LONGEST or text.count("+") > _MOST_WORDS:
        return None
    try:
        layout, training, mtp = parse(text, Training())
    except UsageError:
        return None
    return layout, (*mtp_words(mtp or 0), *training.words)


def _of_layout(layout: Layout) -> Iterator[Trait]:
    sequence = layout.uses_sequence_parallel
    degrees = {
        "tp": layout.tp,
        "sp": layout.tp if sequence else 1,
        "nosp": 1 if sequence else layout.tp,
        "pp": layout.pp,
        "vpp": layout.vpp,
        "cp": layout.cp,
        "ep": layout.ep,
        "etp": layout.expert_tp,
        "ep or etp": layout.ep * layout.expert_tp,
        "dp": layout.data_parallel,
        "dp or cp": layout.data_parallel * layout.cp,
        "ranks": layout.ranks,
    }
    yield from (Trait(name, value) for name, value in degrees.items() if value > 1)


def _of_word(word: str) -> Trait:
    """The trait of an option: which stages are uneven makes no difference."""
    return Trait("uneven stages" if word[0].isdigit() else f"+{word}")


def _of_precision(precision: str | None) -> Iterator[Trait]:
    if precision in ("fp32", "bf16", "fp16"):
        yield Trait("below fp64")
    if precision in ("bf16", "fp16"):
        yield Trait("below fp32")
