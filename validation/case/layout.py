"""Parallel layouts: the degrees, their names, and how many ranks they need."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import shown

_DEGREES = ("tp", "pp", "vpp", "ep", "etp", "cp", "dp")
_DIGITS = 20
"""Of a degree: more are as much too many."""
_TOKEN = re.compile(r"(vpp|etp|tp|pp|ep|cp|dp)([1-9][0-9]*)|nosp")


MOST_RANKS = 1 << 17
"""Ranks of one training: no machine has more GPUs."""


@dataclass(frozen=True)
class Layout:
    """The parallel degrees of one case.

    `etp` left open follows megatron-core where experts are not spread (etp = tp) and is 1 where they are (ep > 1), which is
    how DeepSeek-V3 is trained: whole experts on a rank. `dp` left open is the smallest that the other degrees allow; the ep2
    of one tensor rank, for example, needs two data-parallel ranks to spread its experts over.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    ep: int = 1
    etp: int | None = None
    cp: int = 1
    dp: int | None = None
    sequence_parallel: bool = True

    @classmethod
    def parse(cls, name: str) -> Layout:
        """The layout called `name`: `single`, `tp2`, `tp2pp2`, `pp2vpp2`, `ep2etp2`, `tp2nosp`. Raises UsageError."""
        if name == "single":
            return cls()
        tokens = list(_TOKEN.finditer(name))
        if not tokens or "".join(token.group() for token in tokens) != name:
            raise UsageError(
                f"layout {name!r} is not one: write 'single' or degrees joined together, such as tp2, tp2pp2, ep2etp2 "
                f"(degrees: {', '.join(_DEGREES)}; 'nosp' turns sequence parallelism off)"
            )
        degrees: dict[str, int] = {}
        for token in tokens:
            if token.group(1) in degrees:
                raise UsageError(f"layout {name!r} gives {token.group(1)} twice; give each degree once")
            if token.group(1):
                degrees[token.group(1)] = int(token.group(2)[:_DIGITS])
        return check_ranks(cls(**degrees, sequence_parallel="nosp" not in name), f"layout {shown(name)}")

    @property
    def name(self) -> str:
        """The shortest name that `parse` reads back as this layout."""
        parts = [f"{word}{getattr(self, word)}" for word in ("tp", "pp", "vpp", "ep") if getattr(self, word) > 1]
        parts += [f"etp{self.etp}"] if self.etp is not None else []
        parts += [f"cp{self.cp}"] if self.cp > 1 else []
        parts += [f"dp{self.dp}"] if self.dp is not None else []
        parts += [] if self.sequence_parallel else ["nosp"]
        return "".join(parts) or "single"

    @property
    def expert_tp(self) -> int:
        """The tensor-parallel degree of the experts."""
        if self.etp is not None:
            return self.etp
        return 1 if self.ep > 1 else self.tp

    @property
    def data_parallel(self) -> int:
        """The number of data-parallel ranks, given or the smallest that the expert degrees allow."""
        if self.dp is not None:
            return self.dp
        experts = self.expert_tp * self.ep
        return experts // math.gcd(experts, self.tp * self.cp)

    @property
    def ranks(self) -> int:
        """How many processes the layout needs."""
        return self.tp * self.pp * self.cp * self.data_parallel

    @property
    def uses_sequence_parallel(self) -> bool:
        """Whether activations between the tensor-parallel regions are cut along the sequence."""
        return self.sequence_parallel and self.tp > 1

    def with_degrees(self, **degrees: int | None) -> Layout:
        """This layout with those degrees that are not None."""
        given: dict[str, Any] = {word: value for word, value in degrees.items() if value is not None}
        return check_ranks(replace(self, **given), "the layout")


def check_ranks(layout: Layout, source: str) -> Layout:
    """The layout itself. Raises UsageError, naming `source`, for one that no machine has ranks for."""
    for word in _DEGREES:
        degree = getattr(layout, word)
        if degree is not None and degree > MOST_RANKS:
            raise UsageError(f"{source}: {word} is {degree}; a degree goes up to {MOST_RANKS}")
    if layout.tp and layout.cp and layout.ranks > MOST_RANKS:
        raise UsageError(f"{source}: needs {many(layout.ranks, 'rank')}; a layout has up to {MOST_RANKS}")
    return layout
