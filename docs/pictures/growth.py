"""Makes docs/pictures/growth.svg: how time and memory grow with checks, reports, ranks and layers, from benchmarks/growth.json.

`python benchmarks/growth.py ... --record benchmarks/growth.json` measures, `python docs/pictures/growth.py` draws. A test
compares the picture with what is drawn now.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[2]
FIGURES, PICTURE = ROOT / "benchmarks" / "growth.json", Path(__file__).with_name("growth.svg")
PANELS = (("checks", "checks"), ("merge", "ranks whose reports are merged"), ("ranks", "ranks of a run"), ("layers", "layers"))
WIDTH, HEIGHT, LEFT, TOP, ACROSS, DOWN = 920, 640, 60, 40, 450, 310
PANEL_WIDTH, PANEL_HEIGHT = 290, 200
COLOURS = ("#1f6feb", "#bf4b00", "#1a7f37", "#8250df")
"""One a part. Each has a dash of its own, too: colour alone says nothing."""
DASHES = ("", "6 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high` over so many pixels."""

    low: float
    high: float
    pixels: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        spread = math.log(self.high / self.low) or 1.0
        return math.log(max(value, self.low) / self.low) / spread * self.pixels

    @property
    def ticks(self) -> list[float]:
        """Powers of ten within, and both ends if there are none."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)] or [self.low, self.high]


def drawn(figures: Sequence[dict[str, Any]]) -> str:
    """The SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for number, (what, title) in enumerate(PANELS):
        mine = [one for one in figures if one["what"] == what]
        if mine:
            place = f"translate({LEFT + number % 2 * ACROSS} {TOP + number // 2 * DOWN})"
            parts += [f'<g transform="{place}" fill="#24292f">', *_panel(title, mine), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, figures: Sequence[dict[str, Any]]) -> Iterator[str]:
    sizes = sorted({one["size"] for one in figures})
    seconds = [max(one["seconds"], 0.1) for one in figures]
    across = Axis(sizes[0], sizes[-1], PANEL_WIDTH)
    up = Axis(10 ** math.floor(math.log10(min(seconds))), 10 ** math.ceil(math.log10(max(seconds))), PANEL_HEIGHT)
    yield f'<text y="-14" font-weight="bold">CPU seconds against {escape(title)}</text>'
    yield f'<path d="M0 0V{PANEL_HEIGHT}H{PANEL_WIDTH}" fill="none" stroke="#57606a"/>'
    for tick in up.ticks:
        y = PANEL_HEIGHT - up.at(tick)
        yield f'<text x="-6" y="{y + 4:.0f}" text-anchor="end">{tick:g}</text>'
        yield f'<path d="M0 {y:.1f}H{PANEL_WIDTH}" stroke="#d0d7de"/>'
    for size in sizes:
        yield f'<text x="{across.at(size):.0f}" y="{PANEL_HEIGHT + 16}" text-anchor="middle">{_short(size)}</text>'
    for number, name in enumerate(dict.fromkeys(one["part"] for one in figures)):
        yield from _line(number, name, sorted((one["size"], one) for one in figures if one["part"] == name), across, up)


def _line(number: int, name: str, points: Sequence[tuple[int, dict[str, Any]]], across: Axis, up: Axis) -> Iterator[str]:
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    places = [(across.at(size), PANEL_HEIGHT - up.at(max(one["seconds"], 0.1))) for size, one in points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
    peak = max(one["peak"] for _, one in points)
    said = f"{escape(name)}, at most {peak / 1024:.1f} GiB"
    at = PANEL_HEIGHT + 34 + 14 * number
    yield f'<path d="M0 {at - 4}h24" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
    yield f'<text x="30" y="{at}">{said}</text>'


def _short(size: int) -> str:
    return f"{size // 1_000_000} M" if size >= 1_000_000 else f"{size // 1000} k" if size >= 10_000 else str(size)


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(drawn(json.loads(FIGURES.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
