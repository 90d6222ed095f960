"""The arguments of one run by name, each with where it came from."""

from __future__ import annotations

from collections.abc import Sequence

from validation.case.annotation import Value
from validation.recipe.arguments import Given
from validation.recipe.parser import Parser
from validation.recipe.recipe import Origin, Source
from validation.recipe.trainers import Trainer

_VALIDATE = "validate_args of Megatron-LM"


class Arguments:
    """The arguments of one run by the names that the training program reads, each with where it came from."""

    def __init__(self, parser: Parser, given: Sequence[Given], trainer: Trainer | None = None) -> None:
        place = f"default of Megatron-LM's parser, {parser.name}"
        self._found: dict[str, tuple[Value, Origin]] = {
            dest: (frozen(option.default), Origin(Source.DEFAULT, option.flags[0], place))
            for dest, option in parser.by_dest.items()
        }
        self.release, self.trainer = parser.name, trainer or Trainer()
        for dest, value in self.trainer.defaults.items():
            self._found[dest] = (value, Origin(Source.DEFAULT, dest, self.trainer.source))
        self._found |= {one.option.dest: (one.value, Origin(Source.GIVEN, one.text, one.place)) for one in given}

    def __contains__(self, dest: str) -> bool:
        return dest in self._found

    def __getitem__(self, dest: str) -> Value:
        """The value; None for an argument that this parser does not have."""
        return self._found[dest][0] if dest in self._found else None

    def number(self, dest: str) -> int:
        """A whole number; 0 where there is none."""
        value = self[dest]
        return int(value) if isinstance(value, (int, float)) and abs(value) < 1e18 else 0

    def origin(self, dest: str) -> Origin:
        """Where the value came from."""
        return self._found[dest][1]

    def given(self, *dests: str) -> str:
        """The first of the arguments that the recipe gives or that follow from it, for a sentence; empty if it gives none."""
        return next((dest for dest in dests if dest in self and self.origin(dest).source is not Source.DEFAULT), "")

    def keep(self, dest: str, value: Value) -> None:
        """Write a value in another way; where it came from stays."""
        self._found[dest] = (value, self.origin(dest))

    def always(self, dest: str, value: Value) -> None:
        """Set what the training program sets, whatever is given."""
        self._found[dest] = (value, Origin(Source.FOLLOWS, f"always set by {self.trainer.name}", self.trainer.source))

    def follows(self, dest: str, value: Value, because: str, place: str = _VALIDATE) -> None:
        """Set what the arguments named in `because` lead to; of defaults alone it stays a default."""
        given = self.given(*because.split())
        if given:
            origin = Origin(Source.FOLLOWS, f"follows from {self.origin(given).text}", place)
        else:
            known = [self.origin(one) for one in because.split() if one in self]
            trainers = [one for one in known if one.place == self.trainer.source]
            plain = self.origin(dest) if dest in self else Origin(Source.DEFAULT, because.split()[0], place)
            origin = trainers[0] if trainers else plain
        self._found[dest] = (value, origin)


def frozen(value: object) -> Value:
    """A value of JSON or YAML with tuples in place of lists; anything else by its text."""
    if isinstance(value, (list, tuple)):
        return tuple(frozen(item) for item in value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
