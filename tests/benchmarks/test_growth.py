"""The picture of growth is drawn from the figures that were measured."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import growth
from docs.pictures.growth import FIGURES, PANELS, PICTURE, Axis, drawn


def test_the_picture_is_that_of_the_figures() -> None:
    """`python docs/pictures/growth.py` draws it again."""
    figures = json.loads(FIGURES.read_text())
    assert PICTURE.read_text(encoding="utf-8") == drawn(figures)
    assert {one["what"] for one in figures} == {what for what, _ in PANELS}
    ElementTree.fromstring(PICTURE.read_text(encoding="utf-8"))


def test_an_axis_is_logarithmic_and_has_the_powers_of_ten() -> None:
    axis = Axis(1, 1000, 300)
    assert [axis.at(value) for value in (1, 10, 1000)] == pytest.approx([0, 100, 300])
    assert axis.ticks == [1, 10, 100, 1000]
    assert Axis(2, 5, 10).ticks == [2, 5]
    assert Axis(4, 4, 10).at(4) == 0


def test_a_measurement_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "growth.json"
    for seconds in (1.0, 2.0):
        growth._keep(file, {"what": "ranks", "size": 4, "part": "run", "seconds": seconds})
    growth._keep(file, {"what": "ranks", "size": 2, "part": "run", "seconds": 0.5})
    assert [(one["size"], one["seconds"]) for one in json.loads(file.read_text())] == [(2, 0.5), (4, 2.0)]
