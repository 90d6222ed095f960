"""What became of a recipe's settings, as the properties of a testsuite say it. The checks write them, and `ci` reads them.

`recipe` is the recipe's file, `coverage` has the counts, and each setting has a property of its own:
`coverage.model.moe_z_loss_coeff=0.001` with the value `equal`, or `needs: WHY`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from validation.case.strangers import listed

EQUAL, DIFFERENT, NOT_EXERCISED = "equal", "different", "not exercised here"
NEEDED, NOT_COMPARED = "needs", "cannot be compared"
WORDS = (DIFFERENT, EQUAL, NOT_EXERCISED, NEEDED, NOT_COMPARED)
"""In the order in which they are told."""
RECIPE, COUNTS, PREFIX = "recipe", "coverage", "coverage."
"""Properties of a testsuite: the file, the counts, and what the name of a setting's property begins with."""
HIDDEN, NO_STEPS = "fp64 hides it; --precision bf16 shows it", "no optimizer steps were taken; --steps 2 takes them"
UNABLE = "no optimizer steps can be taken:"
"""Why one case does not exercise a setting that another may."""
NONE = "no settings"
"""The counts of a recipe that sets nothing of its own."""
_SHOWN = {NEEDED: "need what is not here"}


@dataclass(frozen=True)
class Word:
    """What became of one setting, and why it is no better word."""

    word: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.why}" if self.why else self.word

    @classmethod
    def of(cls, text: str) -> Word:
        """The word that a property has. Raises ValueError for one that is none of WORDS."""
        word, _, why = text.partition(": ")
        if word not in WORDS:
            raise ValueError(f"{word[:40]!r} is none of {', '.join(WORDS)}")
        return cls(word, why)


def counts(words: Iterable[str]) -> str:
    """`18 equal, 2 not exercised here, 11 need what is not here, 6 cannot be compared`."""
    found = list(words)
    return ", ".join(f"{found.count(word)} {_SHOWN.get(word, word)}" for word in WORDS if word in found) or NONE


def properties(recipe: str, found: Mapping[str, Word]) -> dict[str, str]:
    """Of a testsuite; `found` has the settings as `NAME=VALUE`."""
    said = {f"{PREFIX}{setting}": str(word) for setting, word in found.items()}
    return {RECIPE: recipe, COUNTS: counts(word.word for word in found.values())} | said


def read(said: Mapping[str, str]) -> dict[str, Word]:
    """The settings that a testsuite's properties tell of. Raises ValueError with a sentence if they contradict each other."""
    found: dict[str, Word] = {}
    for key, text in said.items():
        if not key.startswith(PREFIX):
            continue
        setting = key.removeprefix(PREFIX)
        try:
            found[setting] = Word.of(text)
        except ValueError as error:
            raise ValueError(f"setting {setting[:100]}: {error}") from None
    names = [setting.partition("=")[0] for setting in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"setting {twice[:100]} is there twice")
    counted = counts(word.word for word in found.values())
    if said.get(COUNTS) != counted:
        raise ValueError(f"the counts are {said.get(COUNTS, 'missing')[:200]!r}, and the settings make {counted!r}")
    return found


def joined(cases: Iterable[Mapping[str, Word]]) -> dict[str, Word]:
    """What became of each setting in several cases of one recipe: different in one is different, else equal in one is equal."""
    found: dict[str, Word] = {}
    for setting, word in (one for case in cases for one in case.items()):
        found[setting] = min(found.get(setting, word), word, key=_telling)
    return found


def _telling(word: Word) -> tuple[int, bool]:
    """A key to find the word that says most: of two reasons the one that is not about the case."""
    return WORDS.index(word.word), word.why in (HIDDEN, NO_STEPS) or word.why.startswith(UNABLE)


def without(names: Sequence[str]) -> str:
    """`compared without --schedules-method dualpipev, model.hidden_dropout=0.1 and 3 more`; nothing without names."""
    return f"compared without {listed(names)}" if names else ""


def not_compared(found: Mapping[str, Word]) -> str:
    """The same of what became of settings: of those that cannot be compared."""
    return without([setting for setting, word in found.items() if word.word == NOT_COMPARED])


def share(found: Mapping[str, Word]) -> float:
    """The share of the settings that are equal; 1 if there are none."""
    return sum(word.word == EQUAL for word in found.values()) / len(found) if found else 1.0
