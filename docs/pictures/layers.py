"""Draws error against floor over the layers of a model.

`python docs/pictures/layers.py RESULTS.xml TABLE.csv PICTURE.svg` takes the numbers from the JUnit file of a run, writes them
and draws them. Without RESULTS.xml it draws those of the table. Each kind of tensor has a panel: the floor, which is what
rounding does to HuggingFace's own model, the candidate's error, and the limit.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

PANELS = {
    "Layer Output": "Layer output",
    "Layer Output Gradient": "Gradient that reaches the layer's output",
    "Attention Output Projection Weight Gradient": "Gradient of the attention's output projection",
    "Experts Down Weight Gradient": "Gradient of the 256 experts' down projections",
}
"""What is drawn, by the part of a check's title behind the layer."""
LIMIT = 2
"""Floors that a tensor may be off (docs/decisions/0001-tolerance.md)."""
WIDTH, HEIGHT, LEFT, TOP, PANEL = 840, 190, 64, 34, 128
_TITLE = re.compile(r"(Layer|MTP) (\d+) (.*)")


@dataclass(frozen=True)
class Point:
    """A tensor of one layer: its relative error, and its floor."""

    layer: str
    kind: str
    error: float
    floor: float


def points(path: Path) -> list[Point]:
    """Those of the file's checks that are drawn, in the order of layers."""
    found = []
    for testcase in ElementTree.parse(path).iter("testcase"):
        title = _TITLE.fullmatch(testcase.attrib["name"])
        said = {one.attrib["name"]: one.attrib["value"] for one in testcase.iter("property")}
        if title is not None and title[3] in PANELS and "floor" in said:
            layer = title[2] if title[1] == "Layer" else "MTP"
            found.append(Point(layer, title[3], float(said["rel_error"]), float(said["floor"])))
    return sorted(found, key=lambda point: math.inf if point.layer == "MTP" else int(point.layer))


def drawn(found: list[Point]) -> str:
    """The picture."""
    layers = list(dict.fromkeys(point.layer for point in found))
    parts = []
    for number, (kind, title) in enumerate(PANELS.items()):
        own = {point.layer: point for point in found if point.kind == kind}
        if own:
            parts.append(_panel(own, layers, title, TOP + number * HEIGHT))
    size = f'width="{WIDTH}" height="{len(PANELS) * HEIGHT + 30}" viewBox="0 0 {WIDTH} {len(PANELS) * HEIGHT + 30}"'
    style = (
        "text{font:12px sans-serif;fill:#24292f}.t{font-weight:600;font-size:13px}.g{stroke:#d0d7de}"
        ".f{fill:none;stroke:#57606a;stroke-width:1.5;stroke-dasharray:5 3}.l{fill:none;stroke:#cf222e;stroke-width:1.2}"
        ".e{fill:#0969da}"
    )
    background = f'<rect width="{WIDTH}" height="{len(PANELS) * HEIGHT + 30}" fill="#fff"/>'
    legend = (
        '<text x="64" y="16">relative error, layers from left to right: '
        '<tspan fill="#0969da">● Megatron-Core</tspan> · <tspan fill="#57606a">┅ floor</tspan> · '
        '<tspan fill="#cf222e">─ limit</tspan></text>'
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{background}{legend}{"".join(parts)}</svg>\n'


def _panel(own: dict[str, Point], layers: list[str], title: str, top: int) -> str:
    highest = max(LIMIT * point.floor for point in own.values()) * 1.08

    def x(layer: str) -> float:
        return LEFT + 8 + layers.index(layer) * (WIDTH - LEFT - 30) / max(1, len(layers) - 1)

    def y(value: float) -> float:
        return top + 22 + PANEL * (1 - min(value, highest) / highest)

    def line(values: dict[str, float], name: str) -> str:
        path = " ".join(f"{x(layer):.1f},{y(value):.1f}" for layer, value in values.items())
        return f'<polyline class="{name}" points="{path}"/>'

    ticks = [highest * part / 4 for part in range(5)]
    grid = "".join(
        f'<line class="g" x1="{LEFT}" x2="{WIDTH - 14}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2g}</text>'
        for tick in ticks
    )
    named = "".join(
        f'<text x="{x(layer):.1f}" y="{top + 22 + PANEL + 15}" text-anchor="middle">{layer}</text>'
        for layer in layers
        if layer == "MTP" or (int(layer) % 10 == 0 and layer in own and layer not in layers[-2:])
    )
    dots = "".join(f'<circle class="e" r="2.6" cx="{x(one.layer):.1f}" cy="{y(one.error):.1f}"/>' for one in own.values())
    floor = line({layer: point.floor for layer, point in own.items()}, "f")
    limit = line({layer: LIMIT * point.floor for layer, point in own.items()}, "l")
    return f'<text class="t" x="{LEFT}" y="{top + 12}">{title}</text>{grid}{named}{floor}{limit}{dots}'


def tabled(path: Path) -> list[Point]:
    """Those of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Point(layer, kind, float(error), float(floor)) for layer, kind, error, floor in list(csv.reader(file))[1:]]


def written(found: list[Point], path: Path) -> None:
    """Make such a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("layer", "tensor", "relative error", "floor"))
        writer.writerows((point.layer, point.kind, f"{point.error:.4g}", f"{point.floor:.4g}") for point in found)


def main(*paths: str) -> None:
    """Write the table, if there are results, and the picture."""
    *results, table, picture = map(Path, paths)
    for path in results:
        written(points(path), table)
    picture.write_text(drawn(tabled(table)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
