"""Lines as SVG. Colours and widths are the style's: an attribute could not have them under the page's policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Value = float | None
"""What a point shows; None is a gap."""


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis: the powers of ten at its ends, and where these are, in units of the picture."""

    low: float
    high: float
    bottom: float
    top: float

    @classmethod
    def of(cls, values: Sequence[Value], bottom: float, top: float) -> Axis:
        """Round a power of ten on either side of what is shown."""
        shown = [math.log10(value) for value in values if value and 0 < value < math.inf]
        low, high = (math.floor(min(shown)), math.ceil(max(shown))) if shown else (-1, 0)
        return cls(low, max(high, low + 1), bottom, top)

    def at(self, value: float) -> float:
        """Where a value is. Zero is at the bottom, and what is no number at the top."""
        if not value > 0:
            return self.top if math.isnan(value) else self.bottom
        part = 1.0 if value == math.inf else (math.log10(value) - self.low) / (self.high - self.low)
        return self.bottom + (self.top - self.bottom) * min(max(part, 0.0), 1.0)

    @property
    def ticks(self) -> list[int]:
        """At most five powers of ten, evenly apart."""
        step = max(1, math.ceil((self.high - self.low) / 4))
        return list(range(math.ceil(self.low), math.floor(self.high) + 1, step))


def line(kind: str, xs: Sequence[float], values: Sequence[Value], axis: Axis) -> str:
    """A line that is broken where there is no value."""
    parts, pen = [], "M"
    for x, value in zip(xs, values, strict=True):
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {axis.at(value):.1f}")
        pen = "L"
    return f'<path class="{kind}" d="{" ".join(parts)}"/>' if parts else ""


def dot(kind: str, x: float, y: float, title: str) -> str:
    """A point that says what it is under a pointer."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(title)}</title></circle>'


def words(x: float, y: float, said: str, anchor: str = "middle") -> str:
    """A label."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def picture(width: int, height: int, says: str, *parts: str) -> str:
    """The whole of it, with a sentence for whoever does not see it."""
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg class="plot" {box} role="img" aria-label="{escape(says)}">{"".join(parts)}</svg>'


def power(exponent: int) -> str:
    """A label of an axis."""
    return f"1e{exponent}"


def digits(value: Value) -> str:
    """Two digits of a number, as short as they go: `1.4e-5`."""
    if value is None:
        return "nothing"
    shown = f"{value:.2g}"
    return shown.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
