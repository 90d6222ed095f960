"""What a diagnosis is."""

from __future__ import annotations

from dataclasses import dataclass

UNDECIDED = "undecided"
MENDED = "upstream mended"
CRASH, INFRASTRUCTURE = "crash", "infrastructure"
MODELLING, WEIGHTS, OPTIMIZER = "modelling", "weights", "optimizer step"


@dataclass(frozen=True)
class First:
    """The first wrong check in the flow of data that the failing cases share, and a testsuite that has it."""

    component: str
    name: str
    suite: str


@dataclass(frozen=True)
class Diagnosis:
    """The likely cause of a run's failures.

    `sentence` is one line of printable text without a final full stop. `groups` are the causes that it names, the property of
    the cases first: `tensor parallelism`, `option +full`, `weights`, `modelling` and so on. `certain` says that every other
    explanation is contradicted by a case. `deciding` is a sentence with the case that would decide between two causes, or
    empty. `first` is None if nothing was compared.
    """

    sentence: str
    groups: tuple[str, ...]
    certain: bool
    deciding: str = ""
    first: First | None = None

    @property
    def group(self) -> str:
        """The groups in a few words: `tensor parallelism, weights`."""
        return ", ".join(self.groups)

    @property
    def lines(self) -> tuple[str, ...]:
        """What a reader is told: the sentence, and the case that would decide."""
        return tuple(f"{line}." for line in (self.sentence, self.deciding) if line)
